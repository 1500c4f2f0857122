"""From a method's settings to the method."""

import torch

from refine_ops.config import ImageLimits
from refine_ops.eval.config import ControlMethod, EndpointMethod, FolderMethod, MethodConfig, RefinerMethod
from refine_ops.eval.methods.endpoint import EditEndpoint
from refine_ops.eval.methods.method import Method
from refine_ops.eval.methods.outputs import ControlOutputs, FolderOutputs
from refine_ops.eval.methods.refiner import OurRefiner
from refine_ops.model.fingerprint import pinned_adapters
from refine_ops.model.pretrained import pick_device
from refine_ops.proof.allowed import Rules


def open_method(config: MethodConfig, device: torch.device, limits: ImageLimits) -> Method:
    """The method that `config` describes; models are loaded when the first output is asked for.

    It runs on `device`, the refiner on its own `model.device` where that says which.
    """
    if isinstance(config, RefinerMethod):
        wanted = config.refine.model.device
        own = device if wanted == "auto" else pick_device(wanted=wanted, setting=f"{config.name}: model.device")
        model = config.refine.model
        model = model.model_copy(update={"adapters": pinned_adapters(model)})
        return OurRefiner(config.refine.model_copy(update={"model": model}), own)
    if isinstance(config, FolderMethod):
        return FolderOutputs(config, limits)
    if isinstance(config, ControlMethod):
        return ControlOutputs(config.control)
    if isinstance(config, EndpointMethod):
        return EditEndpoint(config, limits)
    from refine_ops.eval.methods.pipelines import EditPipeline  # diffusers takes seconds that no other method owes

    return EditPipeline(config, device)


def promised(config: MethodConfig) -> Rules:
    """What a method's outputs are held to: its own settings, or the defaults where it has none."""
    return Rules.of(config.refine.paste, config.refine.write) if isinstance(config, RefinerMethod) else Rules()
