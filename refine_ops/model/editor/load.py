"""An editor's pipeline: its class by the table, its weights from safetensors alone, LoRAs fused, on its device.

No code of a checkpoint is run: components are classes of diffusers and transformers, the pipeline's own module stands
in the table.
"""

import importlib
import logging
from typing import Any, Final

import diffusers
import torch
import transformers

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.load import load_diffusers, named_failures
from refine_ops.model.lora import fuse_loras
from refine_ops.model.presets import EditorPreset
from refine_ops.model.presets.table import TABLE
from refine_ops.model.source import ResolvedModel, components_of

logger = logging.getLogger(__name__)

_LIBRARIES: Final = {"diffusers": diffusers, "transformers": transformers}
_UNREAD: Final = "lm_head.weight"
"""Turns a text encoder's hidden states into words, which no pipeline here reads."""


def pipeline_class(preset: EditorPreset) -> Any:
    """The class that the preset names, from the module that the table names.

    Raises:
        JobError: there is none of that name.
    """
    module = importlib.import_module(preset.row.module)
    found = getattr(module, preset.pipeline, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise JobError(
            f"{preset.pipeline!r} is no pipeline of {module.__name__} {getattr(module, '__version__', '')}; set "
            f"`pipeline` to one of {', '.join(TABLE)}, or install a release that has it"
        )
    return found


def load_pipeline(model: ResolvedModel, settings: ModelSettings, device: torch.device, dtype: torch.dtype) -> Any:
    """Every component onto `device` (or the host, with `offload`), LoRAs fused, compiled where asked for.

    Raises:
        JobError: A part is missing, pickled, of another library, or does not fit; out of device memory.
    """
    assert isinstance(model.preset, EditorPreset)
    if settings.offload and device.type != "cuda":
        raise JobError(f"offload moves components between the host and a GPU, this is {device}; set offload false")
    loader = pipeline_class(model.preset)
    with named_failures(model.folder, device):
        parts = {name: part for name in components_of(model.folder) if (part := _weighed(model, name, dtype))}
        pipeline = loader.from_pretrained(
            model.folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, **parts
        )
        if model.loras:
            _fuse(pipeline, model)
        for part in parts.values():
            part.requires_grad_(False).eval()
            right_positions(part)
        if settings.compile:
            _compile(pipeline)
        if settings.offload:
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    logger.info(
        "loaded %s from %s in %s on %s with %d LoRA(s)",
        model.preset.pipeline, model.folder, dtype, device, len(model.loras),
    )  # fmt: skip
    return pipeline


def _weighed(model: ResolvedModel, name: str, dtype: torch.dtype) -> Any:
    """A component with weights, complete and of the right shapes; None of a tokenizer, a processor, a scheduler."""
    library, class_name = components_of(model.folder)[name]
    found: Any = getattr(_LIBRARIES.get(library), class_name, None)
    if found is None:
        raise JobError(
            f"{model.folder / 'model_index.json'}: {name} is {library}.{class_name}; only classes of diffusers and "
            "transformers are loaded, never a checkpoint's own code"
        )
    folder = model.folder / name
    kinds = found.__mro__ if isinstance(found, type) else ()
    if diffusers.ModelMixin in kinds:
        return load_diffusers(found, folder, torch_dtype=dtype)
    if transformers.PreTrainedModel in kinds:
        if not any(folder.glob("*.safetensors")):
            raise JobError(f"{folder} holds no .safetensors weights; pickled ones are never loaded, convert them")
        part, info = found.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, dtype=dtype
        )
        missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])} - {_UNREAD})
        if missing:
            raise JobError(f"{folder} does not fit {class_name}: {len(missing)} weights missing, first {missing[0]}")
        return part
    return None


def _fuse(pipeline: Any, model: ResolvedModel) -> None:
    network = getattr(pipeline, "transformer", None)
    if network is None:
        raise JobError(f"{type(pipeline).__name__} has no transformer for LoRAs; leave `adapters` out")
    fuse_loras(network, model.loras)


def _compile(pipeline: Any) -> None:
    network = getattr(pipeline, "transformer", None)
    if not getattr(network, "_repeated_blocks", None):
        raise JobError(f"{type(pipeline).__name__} names no blocks to compile; set compile false")
    # Sizes are dynamic from the start, so that an item's bits do not depend on which size came first.
    network.compile_repeated_blocks(dynamic=True, fullgraph=True)  # type: ignore[union-attr]


def right_positions(encoder: Any) -> None:
    """Tell a Qwen2.5-VL which of its tokens are pictures.

    transformers 5 numbers picture tokens like words where `mm_token_type_ids` is not given, and diffusers 0.42's
    Qwen-Image-Edit and LongCat pipelines do not give it: prompts would be read at other positions than in training.
    """
    if not isinstance(encoder, transformers.Qwen2_5_VLForConditionalGeneration):
        return

    def add(module: Any, arguments: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids = given.get("input_ids")
        if ids is None or given.get("mm_token_type_ids") is not None:
            return arguments, given
        return arguments, {**given, "mm_token_type_ids": (ids == module.config.image_token_id).int()}

    encoder.register_forward_pre_hook(add, with_kwargs=True)
