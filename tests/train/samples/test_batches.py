"""Micro-batches from a cache of known tensors: shapes, noise, weights, dropout, sparse targets, ranks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from refine_ops.model.sparse import choose_tokens
from refine_ops.model.stages import pack
from refine_ops.train.config import LossSettings, RunSettings
from refine_ops.train.loss import band_on_latents
from refine_ops.train.samples.batches import Batch, BatchSpec, TrainingBatches, drawable, make_batch
from refine_ops.train.samples.cache import EncodedCache, Entry
from refine_ops.train.samples.draws import DrawOrder
from refine_ops.train.samples.loader import rank_batches

SPEC = BatchSpec(LossSettings(), latent_px=8, target_ring=0, text_multiple=4)
SIZE = (96, 64)


def _mask() -> np.ndarray:
    mask = np.zeros((64, 96), bool)
    mask[20:40, 30:50] = True
    return mask


def _entry(cache: EncodedCache, name: str, text: int, reference: bool) -> Entry:
    generator = torch.Generator().manual_seed(sum(name.encode()))
    images = ["crop", *(["reference"] if reference else []), "mask"]
    for kind in (*images, "target"):
        cache.put(f"{name}/{kind}", torch.randn(2, 8, 12, generator=generator))
    cache.put(f"{name}/prompt", torch.randn(text, 5, generator=generator))
    packed = np.stack([np.packbits(_mask()), np.packbits(_mask())])
    cache.put(f"{name}/regions", torch.from_numpy(packed))
    entry = Entry(
        key=name,
        images=tuple(f"{name}/{kind}" for kind in images),
        sizes=(SIZE,) * len(images),
        target=f"{name}/target",
        prompt=f"{name}/prompt",
        text_tokens=text,
        regions=f"{name}/regions",
    )
    cache.finish(entry)
    return entry


@pytest.fixture
def cache(tmp_path: Path) -> EncodedCache:
    return EncodedCache(tmp_path)


def _batches(
    cache: EncodedCache, entries: Sequence[Entry], twins: Sequence[Entry | None], **options: float
) -> TrainingBatches:
    named = [(entry, entry.key) for entry in entries]
    references = [len(entry.images) == 3 for entry in entries]
    values = {"dropout": 0.0, "sparse_share": 0.0, **options}
    order = DrawOrder(drawable(cache, named, references, values["sparse_share"] > 0, SPEC), 2, None, seed=0)
    return TrainingBatches(
        cache,
        named,
        twins,
        order,
        SPEC,
        dropout=values["dropout"],
        sparse_share=values["sparse_share"],
        seed=0,
        count=40,
    )


def test_a_batch_is_what_its_parts_say(cache: EncodedCache) -> None:
    entry = _entry(cache, "a", 6, reference=True)
    batch = make_batch(cache, [entry], ["a"], [7], 0.25, False, SPEC)
    target = pack(cache.tensor("a/target")[None])
    assert torch.equal(batch.clean, target)
    assert torch.equal(batch.condition[:, :24], pack(cache.tensor("a/crop")[None]))
    assert torch.equal(batch.condition[:, 24:48], pack(cache.tensor("a/reference")[None]))
    assert batch.shapes == [(1, 4, 6)] * 4
    torch.testing.assert_close(batch.noisy, 0.75 * batch.clean + 0.25 * batch.noise)
    # The velocity points from the image to the noise: following it for the remaining sigma arrives there.
    torch.testing.assert_close(batch.noisy + 0.75 * batch.velocity, batch.noise)
    band = torch.from_numpy(band_on_latents(_mask(), SPEC.loss, 8))
    assert torch.equal(batch.band, pack(band[None, None]))
    again = make_batch(cache, [entry], ["a"], [7], 0.9, False, SPEC)
    assert torch.equal(again.noise, batch.noise)
    assert not torch.equal(make_batch(cache, [entry], ["a"], [8], 0.9, False, SPEC).noise, batch.noise)


def test_texts_of_unequal_length_are_padded_and_masked(cache: EncodedCache) -> None:
    short, long = _entry(cache, "s", 5, False), _entry(cache, "l", 8, False)
    batch = make_batch(cache, [short, long], ["s", "l"], [1, 2], 0.5, False, SPEC)
    assert batch.text_mask is not None
    assert batch.text_mask.sum(1).tolist() == [5, 8]
    assert batch.text.shape == (2, 8, 5)
    assert not batch.text[0, 5:].any()
    assert make_batch(cache, [long, long], ["l", "l"], [1, 2], 0.5, False, SPEC).text_mask is None


def test_sparse_targets_are_the_refiners_choice_with_their_own_weights(cache: EncodedCache) -> None:
    entry = _entry(cache, "a", 6, reference=False)
    dense = make_batch(cache, [entry], ["a"], [7], 0.5, False, SPEC)
    sparse = make_batch(cache, [entry], ["a"], [7], 0.5, True, SPEC)
    chosen = choose_tokens(_mask(), (4, 6), 0)
    assert sparse.targets is not None
    assert torch.equal(sparse.targets[0], chosen)
    assert len(chosen) < 24
    for name in ("clean", "noise", "band"):
        assert torch.equal(getattr(sparse, name), getattr(dense, name)[:, chosen])
    assert torch.equal(sparse.condition, dense.condition)


def test_mixed_targets_and_dropout_take_their_shares(cache: EncodedCache) -> None:
    entries = [_entry(cache, f"r{k}", 6, reference=True) for k in range(4)]
    twins = [_entry(cache, f"t{k}", 5, reference=False) for k in range(4)]
    drawn = [_batches(cache, entries, twins, dropout=0.3, sparse_share=0.5)[i] for i in range(400)]
    assert sum(b.targets is not None for b in drawn) / 400 == pytest.approx(0.5, abs=0.09)
    assert sum(len(b.shapes) == 3 for b in drawn) / 400 == pytest.approx(0.3, abs=0.08)
    assert all(len(b.ids) == 2 and b.ids[0].startswith("r") for b in drawn)


def _sums(batches: Sequence[Batch]) -> list[float]:
    return [float(batch.noisy.double().sum()) for batch in batches]


@pytest.mark.processes
def test_one_and_two_ranks_see_the_same_samples_and_noise(cache: EncodedCache) -> None:
    entries = [_entry(cache, f"e{k}", 6, reference=False) for k in range(5)]
    batches = _batches(cache, entries, [None] * 5)
    run = RunSettings(steps=5, batch_size=8, micro_batch=2, loader_workers=0)
    alone = list(rank_batches(batches, run, 0, 0, 1))
    assert len(alone) == 20
    pairs = [list(rank_batches(batches, run, 0, rank, 2)) for rank in (0, 1)]
    together = [batch for both in zip(*pairs, strict=True) for batch in both]
    assert _sums(together) == _sums(alone)
    assert _sums(list(rank_batches(batches, run, 3, 0, 1))) == _sums(alone[12:])
    workers = run.model_copy(update={"loader_workers": 2})
    cache.flush()
    assert _sums(list(rank_batches(batches, workers, 0, 0, 1))) == _sums(alone)
    assert batches.samples_of_step(1, 4) == [name for batch in alone[4:8] for name in batch.ids]
