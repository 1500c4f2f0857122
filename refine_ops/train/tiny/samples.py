"""Batches for the transformer, rendered where it trains: the inputs that the refiner would make, plus the target.

A batch has one shape: all of its samples have a reference or none has, and all have dense or all have sparse targets.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from refine_ops.data import synthetic
from refine_ops.data.stages.damages import ALL_EQUAL
from refine_ops.model.inputs import InputSpec, PreparedInputs, prepare
from refine_ops.model.presets import PRESETS
from refine_ops.model.sizes import token_grid
from refine_ops.model.sparse import choose_tokens
from refine_ops.model.stages import encode_prompts
from refine_ops.model.tiny import GRID_PX, shapes, tokenizer
from refine_ops.records import Conditioning
from refine_ops.train.tiny import assemble

_Rendered = TypeVar("_Rendered")
TEXT_TOKENS = 56
"""Longest prompt behind the template, with three thumbnails; batches are padded to it."""
TEMPLATE_TOKENS = 64
REPAIRABLE = {name: weight for name, weight in ALL_EQUAL.items() if name not in ("inpainting", "local_warp")}
"""Damage for samples without a reference: what is gone or moved cannot be known without one."""


@dataclass(frozen=True, slots=True)
class RenderedBatch:
    """One training batch of B samples. Images are `uint8 (B, 3, h, w)`.

    `images` are the condition images in order; `target` is I*. `text` `float32 (B, L, D)`, `text_mask` `bool (B, L)`.
    `chosen` `int64 (B, T)` are the denoised tokens or None for all; `inside` `bool (B, T)` tells which touch the
    blend's support.
    """

    images: tuple[torch.Tensor, ...]
    target: torch.Tensor
    text: torch.Tensor
    text_mask: torch.Tensor
    chosen: torch.Tensor | None
    inside: torch.Tensor


@dataclass(frozen=True, slots=True)
class Mix:
    """What the batches are made of. `window` (px, square) is cut from the rendered crop around the mask.

    A third of the references lie exactly where the target is, `loose_share` anywhere (so that one which does not fit is
    not copied), the others are moved by a pose of at most `pose`.
    """

    recipe: synthetic.Recipe
    window: int = 80
    batch: int = 8
    reference_share: float = 0.5
    sparse_share: float = 0.4
    sparse_tokens: float = 0.5
    pose: float = 0.2
    loose_share: float = 0.16


class RenderedBatches(IterableDataset[RenderedBatch]):
    """Endless batches; batch `n` of a seed is the same wherever it is rendered."""

    def __init__(self, mix: Mix, folders: tuple[Path, ...], prompts: list[str], first: int = 0) -> None:
        self.mix, self.folders, self.prompts, self.first = mix, folders, prompts, first

    def __iter__(self) -> Iterator[RenderedBatch]:
        torch.set_num_threads(1)
        library = synthetic.library("train", self.folders)
        processor, text_encoder = assemble.new_text_parts(self.prompts)
        spec = input_spec(processor)
        number = self.first
        while True:
            yield make_batch(number, self.mix, library, spec, text_encoder)
            number += 1


def rendered_ahead(batches: IterableDataset[_Rendered]) -> Iterator[_Rendered]:
    """Batches from a process of their own. It is spawned: a fork of a process with threads may hang."""
    return iter(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8, multiprocessing_context="spawn"))


def input_spec(processor: Any) -> InputSpec:
    """The refiner's own input rules for the tiny preset, with dense targets."""
    return InputSpec(
        preset=replace(PRESETS["tiny"], targets="dense"),
        processor=processor,
        template=tokenizer.template(),
        template_tokens=TEMPLATE_TOKENS,
        latent_px=GRID_PX // 2,
        latent_channels=shapes.LATENT_CHANNELS,
        negative_prompt=None,
        target_ring=1,
    )


def make_batch(
    number: int, mix: Mix, library: synthetic.Library, spec: InputSpec, text_encoder: torch.nn.Module
) -> RenderedBatch:
    """Render and prepare batch `number`."""
    rng = np.random.default_rng((mix.recipe.seed, 7, number))
    with_reference = bool(rng.random() < mix.reference_share)
    sparse = bool(rng.random() < mix.sparse_share)
    items, targets = [], []
    for position in range(mix.batch):
        pose = _pose(mix, rng)
        recipe = replace(mix.recipe, reference_share=float(with_reference), pose=(pose, pose))
        recipe = recipe if with_reference else replace(recipe, damages=REPAIRABLE)
        sample = synthetic.render(number * mix.batch + position, recipe, library)
        item, target = _windowed(sample, mix.window, rng)
        items.append(item)
        targets.append(torch.from_numpy(target).permute(2, 0, 1))
    prepared = [prepare(item, spec, lambda _: TEXT_TOKENS) for item in items]
    text, mask = encode_text(prepared, text_encoder)
    chosen, inside = _choose(items, mix, sparse, rng)
    images = tuple(torch.stack(images) for images in zip(*(one.images for one in prepared), strict=True))
    return RenderedBatch(images, torch.stack(targets), text, mask, chosen, inside)


def _pose(mix: Mix, rng: np.random.Generator) -> float:
    place = float(rng.random())
    if place < 0.34:
        return 0.0
    return float(rng.uniform(0, mix.pose) if place < 1 - mix.loose_share else rng.uniform(mix.pose, 1))


def _windowed(
    sample: synthetic.SyntheticSample, side: int, rng: np.random.Generator
) -> tuple[Conditioning, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """A square window around a random marked pixel, the same in all images."""
    height, width = sample.mask.shape
    rows, columns = np.nonzero(sample.mask)
    at = int(rng.integers(rows.size))
    y = int(np.clip(rows[at] - rng.integers(side // 4, 3 * side // 4), 0, height - side))
    x = int(np.clip(columns[at] - rng.integers(side // 4, 3 * side // 4), 0, width - side))
    cut = np.s_[y : y + side, x : x + side]
    reference = None if sample.reference is None else np.ascontiguousarray(sample.reference[cut])
    item = Conditioning(
        image=np.ascontiguousarray(sample.input[cut]), mask=sample.mask[cut], support=sample.support[cut],
        prompt=sample.prompt, seed=0, reference=reference,
    )  # fmt: skip
    return item, np.ascontiguousarray(sample.target[cut])


@torch.no_grad()
def encode_text(prepared: list[PreparedInputs], text_encoder: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt embeddings `(B, L, D)` and their mask `bool (B, L)`, L = `TEXT_TOKENS`."""
    length = TEMPLATE_TOKENS + TEXT_TOKENS
    ids = torch.zeros(len(prepared), length, dtype=torch.int64)
    mask = torch.zeros(len(prepared), length, dtype=torch.int64)
    for row, one in enumerate(prepared):
        ids[row, : len(one.prompt.ids)] = one.prompt.ids
        mask[row, : len(one.prompt.ids)] = 1
    pixels = torch.cat([one.pixel_values for one in prepared])
    grids = torch.cat([one.grid_thw for one in prepared])
    text = encode_prompts(text_encoder, ids, mask, pixels, grids, TEMPLATE_TOKENS)
    return text, mask[:, TEMPLATE_TOKENS:].bool()


def _choose(
    items: list[Conditioning], mix: Mix, sparse: bool, rng: np.random.Generator
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The denoised tokens of a sparse batch (a fixed number: shapes must be equal), and which touch the support."""
    grid = token_grid((mix.window, mix.window), GRID_PX // 2)
    total = grid[0] * grid[1]
    touched = torch.stack(
        [
            torch.from_numpy(item.support.reshape(grid[0], GRID_PX, grid[1], GRID_PX).any(axis=(1, 3)).reshape(-1))
            for item in items
        ]
    )
    if not sparse:
        return None, touched
    count, rows = round(total * mix.sparse_tokens), []
    for item in items:
        near = choose_tokens(item.support, grid, 1).numpy()
        rest = np.setdiff1d(np.arange(total), near)
        picked = near[rng.permutation(near.size)[:count]]
        extra = rng.permutation(rest)[: count - picked.size]
        rows.append(torch.from_numpy(np.sort(np.concatenate([picked, extra]))))
    chosen = torch.stack(rows)
    return chosen, touched.gather(1, chosen)
