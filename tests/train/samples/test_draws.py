"""The order of samples: complete, mixed as asked, and independent of ranks and of where it is entered."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_ops.errors import JobError
from refine_ops.train.samples.draws import DrawableSample, DrawOrder, derive_seed


def _drawable(with_reference: int, without: int, buckets: int = 2) -> list[DrawableSample]:
    kinds = [True] * with_reference + [False] * without
    return [DrawableSample((i % buckets, kind), kind) for i, kind in enumerate(kinds)]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**40),
    st.sampled_from([0.5, 2 / 3, None]),
)  # fmt: skip
def test_entering_anywhere_gives_the_same_micro_batches(
    refs: int, free: int, buckets: int, size: int, seed: int, share: float | None
) -> None:
    drawable = _drawable(refs, free, buckets)
    order = DrawOrder(drawable, size, share, seed)
    sequence = [order.at(i) for i in range(40)]
    resumed = DrawOrder(drawable, size, share, seed)
    assert [resumed.at(i) for i in range(39, 19, -1)] == sequence[39:19:-1]
    for batch in sequence:
        assert len(batch) == size
        assert len({drawable[i].bucket for i in batch}) == 1


def test_every_sample_comes_once_an_epoch_and_epochs_differ() -> None:
    order = DrawOrder(_drawable(0, 12, buckets=1), 3, None, seed=7)
    epochs = [[order.at(4 * e + k) for k in range(4)] for e in range(3)]
    for epoch in epochs:
        assert Counter(i for batch in epoch for i in batch) == Counter(range(12))
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_share_of_reference_based_draws_holds_in_every_prefix() -> None:
    drawable = _drawable(5, 50)
    order = DrawOrder(drawable, 1, 2 / 3, seed=0)
    drawn = [drawable[order.at(i)[0]].has_reference for i in range(300)]
    assert sum(drawn) == 200
    for n in range(1, 301):
        assert abs(sum(drawn[:n]) - 2 * n / 3) <= 1


def test_as_in_the_data() -> None:
    drawable = _drawable(10, 30)
    order = DrawOrder(drawable, 1, None, seed=0)
    assert Counter(order.at(i)[0] for i in range(40)) == Counter(range(40))


def test_a_share_the_data_cannot_give_is_refused_with_the_remedy() -> None:
    with pytest.raises(JobError, match="set it to null"):
        DrawOrder(_drawable(0, 5), 1, 2 / 3, 0)
    with pytest.raises(JobError, match="no training samples"):
        DrawOrder([], 1, None, 0)


def test_seeds_differ_by_purpose_and_are_stable() -> None:
    seeds = {derive_seed(0, "noise", i, k) for i in range(50) for k in range(4)}
    assert len(seeds) == 200
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(0, "noise", 1) == derive_seed(0, "noise", 1) != derive_seed(1, "noise", 1)
