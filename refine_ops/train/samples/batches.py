"""Micro-batches from the cache: latents, embeddings, noise and loss weights, by the micro-batch's number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from refine_ops.model.inputs import draw_noise
from refine_ops.model.network.transformer import Shapes
from refine_ops.model.sizes import token_grid
from refine_ops.model.sparse import choose_tokens
from refine_ops.model.stages import pack
from refine_ops.records import Mask
from refine_ops.train.config import LossSettings
from refine_ops.train.loss import band_on_latents, sample_sigma, sigma_weight
from refine_ops.train.samples.cache import EncodedCache, Entry
from refine_ops.train.samples.draws import DrawableSample, DrawOrder, derive_seed


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch of B samples of equal shapes, at one noise level.

    `clean` and `noise` are `float32 (B, T, 4C)` packed target tokens, `band` `float32 (B, T, 4)`; `condition` is
    `(B, N, 4C)`, `text` `(B, L, D)`, `text_mask` `bool (B, L)` or None, `targets` `int64 (B, T)` or None for the whole
    grid. `weight` is `float32 (B,)`. `tokens` counts image and text tokens of the pass, `ids` names the samples.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    band: torch.Tensor
    condition: torch.Tensor
    text: torch.Tensor
    text_mask: torch.Tensor | None
    targets: torch.Tensor | None
    sigma: torch.Tensor
    weight: torch.Tensor
    shapes: Shapes
    ids: tuple[str, ...]

    @property
    def noisy(self) -> torch.Tensor:
        """`x = (1 - sigma) * x0 + sigma * noise`."""
        return (1 - self.sigma) * self.clean + self.sigma * self.noise

    @property
    def velocity(self) -> torch.Tensor:
        """What is to be predicted: `noise - x0`."""
        return self.noise - self.clean

    @property
    def tokens(self) -> int:
        return self.text.shape[0] * (self.text.shape[1] + self.clean.shape[1] + self.condition.shape[1])

    def to(self, device: torch.device) -> "Batch":
        def there(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            clean=there(self.clean),
            noise=there(self.noise),
            band=there(self.band),
            condition=there(self.condition),
            text=there(self.text),
            text_mask=None if self.text_mask is None else there(self.text_mask),
            targets=None if self.targets is None else there(self.targets),
            sigma=there(self.sigma),
            weight=there(self.weight),
        )


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """What the batches of a run have in common."""

    loss: LossSettings
    latent_px: int
    target_ring: int
    text_multiple: int


def make_batch(
    cache: EncodedCache,
    entries: Sequence[Entry],
    ids: Sequence[str],
    noise_seeds: Sequence[int],
    sigma: float,
    sparse: bool,
    spec: BatchSpec,
) -> Batch:
    """Put together entries of one bucket (`bucket_of`); noise is drawn per sample from its seed."""
    rows = [_row(cache, entry, seed, sparse, spec) for entry, seed in zip(entries, noise_seeds, strict=True)]
    longest = max(len(row.text) for row in rows)
    length = math.ceil(longest / spec.text_multiple) * spec.text_multiple
    mask = torch.arange(length)[None] < torch.tensor([len(row.text) for row in rows])[:, None]
    width, height = entries[0].sizes[0]
    return Batch(
        clean=torch.stack([row.clean for row in rows]),
        noise=torch.stack([row.noise for row in rows]),
        band=torch.stack([row.band for row in rows]),
        condition=torch.stack([row.condition for row in rows]),
        text=torch.stack([F.pad(row.text, (0, 0, 0, length - len(row.text))) for row in rows]),
        text_mask=None if mask.all() else mask,
        targets=None if rows[0].targets is None else torch.stack([r.targets for r in rows if r.targets is not None]),
        sigma=torch.tensor([sigma], dtype=torch.float32),
        weight=torch.full((len(rows),), sigma_weight(spec.loss, sigma)),
        shapes=[(1, *token_grid(size, spec.latent_px)) for size in ((width, height), *entries[0].sizes)],
        ids=tuple(ids),
    )


def bucket_of(cache: EncodedCache, entry: Entry, sparse_possible: bool, spec: BatchSpec) -> tuple[object, ...]:
    """What entries of one micro-batch must share: image sizes, text length and, for sparse targets, their number."""
    text = math.ceil(entry.text_tokens / spec.text_multiple)
    targets = len(_sparse_targets(cache, entry, spec)) if sparse_possible else 0
    return entry.sizes, text, targets


class TrainingBatches(Dataset[Batch]):
    """Micro-batch `i` of the run, for a DataLoader with `batch_size=None`.

    Args:
        entries: What may be drawn, in the order of `order`'s samples, with the samples' ids.
        twins: For entries with a reference, the entry without, if dropout is on.
        sparse_share: Share of micro-batches with sparse targets: 0, 1, or in between for mixed ones.
    """

    def __init__(
        self,
        cache: EncodedCache,
        entries: Sequence[tuple[Entry, str]],
        twins: Sequence[Entry | None],
        order: DrawOrder,
        spec: BatchSpec,
        *,
        dropout: float,
        sparse_share: float,
        seed: int,
        count: int,
    ) -> None:
        self._cache, self._entries, self._twins, self._order, self._spec = cache, entries, twins, order, spec
        self._dropout, self._sparse_share, self._seed, self._count = dropout, sparse_share, seed, count

    def __len__(self) -> int:
        return self._count

    def samples_of_step(self, step: int, micro_batches: int) -> list[str]:
        """Ids of all samples of an optimizer step, over all ranks."""
        first = step * micro_batches
        return [self._entries[i][1] for index in range(first, first + micro_batches) for i in self._order.at(index)]

    def __getitem__(self, index: int) -> Batch:
        drawn = self._order.at(index)
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "draw", index))
        sigma = sample_sigma(self._spec.loss, generator)
        drop, sparse = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        entries = [self._entries[i][0] for i in drawn]
        if drop < self._dropout:
            entries = [self._twins[i] or entry for i, entry in zip(drawn, entries, strict=True)]
        return make_batch(
            self._cache,
            entries,
            [self._entries[i][1] for i in drawn],
            [derive_seed(self._seed, "noise", index, place) for place in range(len(drawn))],
            sigma,
            sparse < self._sparse_share,
            self._spec,
        )


def drawable(
    cache: EncodedCache, entries: Sequence[tuple[Entry, str]], references: Sequence[bool], sparse: bool, spec: BatchSpec
) -> list[DrawableSample]:
    """The draw order's view of `entries`."""
    return [
        DrawableSample(bucket_of(cache, entry, sparse, spec), reference)
        for (entry, _), reference in zip(entries, references, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Row:
    clean: torch.Tensor
    noise: torch.Tensor
    band: torch.Tensor
    condition: torch.Tensor
    text: torch.Tensor
    targets: torch.Tensor | None


def _row(cache: EncodedCache, entry: Entry, noise_seed: int, sparse: bool, spec: BatchSpec) -> _Row:
    latents = cache.tensor(entry.target).float()
    mask, _ = unpack_regions(cache, entry)
    band = torch.from_numpy(band_on_latents(mask, spec.loss, spec.latent_px))
    shape = (latents.shape[0], latents.shape[1], latents.shape[2])
    clean, noise, weights = (pack(t[None])[0] for t in (latents, draw_noise(noise_seed, shape), band[None]))
    targets = _sparse_targets(cache, entry, spec) if sparse else None
    if targets is not None:
        clean, noise, weights = clean[targets], noise[targets], weights[targets]
    condition = torch.cat([pack(cache.tensor(image)[None])[0] for image in entry.images])
    return _Row(clean, noise, weights, condition, cache.tensor(entry.prompt), targets)


def _sparse_targets(cache: EncodedCache, entry: Entry, spec: BatchSpec) -> torch.Tensor:
    _, support = unpack_regions(cache, entry)
    return choose_tokens(support, token_grid(entry.sizes[0], spec.latent_px), spec.target_ring)


def unpack_regions(cache: EncodedCache, entry: Entry) -> tuple[Mask, Mask]:
    """Mask and paste support, `bool (h, w)` each."""
    width, height = entry.sizes[0]
    bits = np.unpackbits(cache.tensor(entry.regions).numpy(), axis=1, count=width * height).astype(bool)
    mask, support = bits.reshape(2, height, width)
    return mask, support
