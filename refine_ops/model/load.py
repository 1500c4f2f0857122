"""The only loader of Qwen-Image-Edit's networks: whole, the encoders alone, the transformer alone.

From a folder, safetensors only, straight to the device, no code from the checkpoint.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from safetensors import SafetensorError, safe_open
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLProcessor

from refine_ops.config import ModelSettings
from refine_ops.errors import JobError
from refine_ops.model.lora import fuse_loras
from refine_ops.model.source import ResolvedModel

logger = logging.getLogger(__name__)

_CLASSES: Final = {
    "transformer": "QwenImageTransformer2DModel",
    "vae": "AutoencoderKLQwenImage",
    "text_encoder": "Qwen2_5_VLForConditionalGeneration",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
}


@dataclass(frozen=True, slots=True)
class Networks:
    """The parts of a `QwenImageEditPlusPipeline`, and the prompt template that belongs to them."""

    transformer: Any
    vae: Any
    text_encoder: Any
    processor: Any
    scheduler: Any
    template: str
    template_tokens: int

    @classmethod
    def of(cls, pipeline: Any) -> "Networks":
        """Take a pipeline apart; its modules are shared, not copied."""
        return cls(
            transformer=pipeline.transformer.eval(),
            vae=pipeline.vae.eval(),
            text_encoder=pipeline.text_encoder.eval(),
            processor=pipeline.processor,
            scheduler=pipeline.scheduler,
            template=pipeline.prompt_template_encode,
            template_tokens=pipeline.prompt_template_encode_start_idx,
        )

    @property
    def latent_px(self) -> int:
        """Pixels per latent along each side: 8 for Qwen-Image, 4 for tiny."""
        return latent_px(self.vae)


def latent_px(vae: Any) -> int:
    """Pixels per latent of a Qwen-Image VAE along each side; the misspelling is diffusers'."""
    return int(2 ** len(vae.temperal_downsample))


def model_dtype(settings: ModelSettings, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA, as the models were trained, and float32 on the CPU."""
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32


def load_networks(model: ResolvedModel, device: torch.device, dtype: torch.dtype) -> Networks:
    """Load every part onto `device` and fuse the LoRAs.

    Raises:
        JobError: A part is missing, of another class, or does not fit; out of device memory.
    """
    networks = _assembled(model, load_transformer(model, device, dtype), device, dtype)
    logger.info("loaded %s in %s on %s with %d LoRA(s)", model.folder, dtype, device, len(model.loras))
    return networks


def load_encoders(model: ResolvedModel, device: torch.device, dtype: torch.dtype) -> Networks:
    """Everything but the transformer, of which there is the configuration and no weights (on the meta device).

    For those who encode many pictures and prompts before they train: together with the transformer, the encoders would
    hold 16 GiB of every device all the while. Raises as `load_networks`.
    """
    with _own_classes(model, device):
        config = QwenImageTransformer2DModel.load_config(model.folder / "transformer", local_files_only=True)
        with torch.device("meta"):
            transformer = QwenImageTransformer2DModel.from_config(config)
    return _assembled(model, transformer, device, dtype)


def load_transformer(model: ResolvedModel, device: torch.device, dtype: torch.dtype) -> Any:
    """The transformer alone, the LoRAs fused. Raises as `load_networks`."""
    changed = {} if model.preset.zero_cond_t is None else {"zero_cond_t": model.preset.zero_cond_t}
    with _own_classes(model, device):
        transformer = load_diffusers(
            QwenImageTransformer2DModel, model.folder / "transformer", **_placed(device, dtype), **changed
        )
    fuse_loras(transformer, model.loras)
    return transformer


def load_vae(model: ResolvedModel, device: torch.device, dtype: torch.dtype) -> Any:
    """The VAE alone, as diffusers has it. Raises as `load_networks`."""
    with _own_classes(model, device):
        return load_diffusers(AutoencoderKLQwenImage, model.folder / "vae", **_placed(device, dtype))


def load_scheduler(model: ResolvedModel) -> Any:
    """The noise schedule alone. Raises as `load_networks`."""
    with _own_classes(model, torch.device("cpu")):
        return FlowMatchEulerDiscreteScheduler.from_pretrained(model.folder / "scheduler", local_files_only=True)


def _assembled(model: ResolvedModel, transformer: Any, device: torch.device, dtype: torch.dtype) -> Networks:
    """The stock pipeline around `transformer`, taken apart: its template and the tokens that it drops come with it."""
    folder, vae, scheduler = model.folder, load_vae(model, device, dtype), load_scheduler(model)
    with _own_classes(model, device):
        pipeline = QwenImageEditPlusPipeline(
            transformer=transformer,
            vae=vae,
            text_encoder=_load_text_encoder(folder / "text_encoder", **_placed(device, dtype)),
            tokenizer=Qwen2Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            processor=Qwen2VLProcessor.from_pretrained(folder / "processor", local_files_only=True),
            scheduler=scheduler,
        )
    return Networks.of(pipeline)


def _placed(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return {"dtype": dtype, "device_map": {"": str(device)}}


@contextlib.contextmanager
def _own_classes(model: ResolvedModel, device: torch.device) -> Iterator[None]:
    """`named_failures`, with the folder's classes checked first."""
    _check_classes(model.folder)
    with named_failures(model.folder, device):
        yield


@contextlib.contextmanager
def named_failures(folder: Path, device: torch.device) -> Iterator[None]:
    """What loading raises becomes a JobError that names the folder."""
    # Two bars per rank say less than one log line.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise JobError(f"the model in {folder} does not fit into the memory of {device}: {error}") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise JobError(f"the model in {folder} cannot be loaded: {error}") from error


def load_diffusers(network: Any, folder: Path, **options: Any) -> Any:
    """A diffusers model; a weight that is missing, superfluous or misshapen is an error, not random numbers."""
    with torch.device("meta"):
        model = network.from_config(network.load_config(folder, local_files_only=True))
    # A count of training batches, which some files leave out and nothing reads.
    wanted = {
        key: list(value.shape) for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")
    }
    found: dict[str, list[int]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            keys = [key for key in file.keys() if not key.endswith("num_batches_tracked")]  # noqa: SIM118 -- no mapping
            found |= {key: file.get_slice(key).get_shape() for key in keys}
    if not found:
        raise JobError(f"{folder} holds no .safetensors weights; pickled ones are never loaded, convert them")
    wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        key = wrong[0]
        raise JobError(
            f"{folder} does not fit {network.__name__}: {len(wrong)} weights differ, first {key}: the model "
            f"wants shape {wanted.get(key)}, the files have {found.get(key)}"
        )
    return network.from_pretrained(folder, use_safetensors=True, local_files_only=True, **options)


def _load_text_encoder(folder: Path, **options: Any) -> Any:
    """Load Qwen2.5-VL; transformers renames old checkpoints' keys, so its own account of what is missing is asked."""
    loaded, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
    )
    # Half a billion weights (1.1 GB) that turn hidden states into words: nothing here reads words.
    loaded.lm_head = torch.nn.Identity()
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])} - {"lm_head.weight"})
    if missing:
        raise JobError(f"{folder} does not fit Qwen2.5-VL: {len(missing)} weights missing, first {missing[0]}")
    return loaded


def _check_classes(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    for part, wanted in _CLASSES.items():
        found = index.get(part, [None, None])[1]
        if found != wanted:
            raise JobError(f"{folder / 'model_index.json'}: {part} is {found}, this refiner needs {wanted}")
