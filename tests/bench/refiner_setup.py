"""What the refiner's bench runs on: a model, a device, and crops."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import QwenImageEditPlusPipeline

from refine_ops.model.doctor.random_weights import FULL, SMALL, random_pipeline
from refine_ops.model.presets import PIPELINE_GRID_PX, PRESETS, Preset
from refine_ops.records import Conditioning


@dataclass(frozen=True)
class Setup:
    """`side` is the crop's, in px; `sides` and `batches` are what `steps` goes through with `text_tokens`."""

    name: str
    pipeline: Callable[[], Any]
    random: bool
    preset: Preset
    device: torch.device
    dtype: torch.dtype
    side: int
    text_tokens: int
    sides: tuple[int, ...]
    batches: tuple[int, ...]

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name() if self.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def make_setup(size: str, random: bool, steps: int | None) -> Setup:
    """`tiny` is the bundled checkpoint (or a random one of test size) in fp32 on the CPU, `full` bf16 on the GPU."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if size == "full":
        device, dtype = torch.device("cuda"), torch.bfloat16
        preset = replace(PRESETS["refineanything-2511-lightning-8"], source="random", loras=())
        make = functools.cache(lambda: random_pipeline(FULL, dtype=dtype, device=device))
        sides, batches, side, text_tokens = (1024, 512, 256), (1, 2, 4, 8, 16), 1024, 700
    else:
        device, dtype = torch.device("cpu"), torch.float32
        # The stock pipeline rounds to 32 px, so ours must here.
        preset = replace(PRESETS["tiny"], vlm_grid_px=PIPELINE_GRID_PX)
        make = functools.partial(
            QwenImageEditPlusPipeline.from_pretrained, preset.source, dtype=dtype, local_files_only=True
        )
        if random:
            make = functools.cache(lambda: random_pipeline(SMALL))
        sides, batches, side, text_tokens = (128, 64), (1, 8), 128, 45
    preset = replace(preset, steps=steps or preset.steps, grid_px=PIPELINE_GRID_PX)
    return Setup(size, make, random, preset, device, dtype, side, text_tokens, sides, batches)


def make_items(side: int, count: int) -> list[Conditioning]:
    """Square crops of smooth noise, a centred half marked, prompts of slightly different length."""
    items = []
    for index in range(count):
        random = np.random.default_rng(index)
        coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = np.kron(coarse, np.ones((side // 8, side // 8, 1), np.uint8))
        mask = np.zeros((side, side), bool)
        mask[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = True
        items.append(Conditioning(image, mask, mask, f"Refine the logo{'!' * (index % 3)}", index))
    return items
