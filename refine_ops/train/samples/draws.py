"""Which samples each micro-batch sees, and with what noise: functions of the seed and the micro-batch's number alone.

No rank, step size or history enters, so 1 and N ranks see the same samples and noise in the same order, and resuming
needs a step number and nothing else. Micro-batch `i` belongs to optimizer step `i // micro_batches_per_step`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from refine_ops.errors import JobError


@dataclass(frozen=True, slots=True)
class DrawableSample:
    """One sample that may be drawn; equal `bucket`s may share a micro-batch."""

    bucket: Hashable
    has_reference: bool


class DrawOrder:
    """An endless, shuffled sequence of micro-batches in which every sample of a pool comes once per epoch.

    The pools are reference-based and reference-free samples; they alternate so that any prefix of the sequence holds
    `reference_share` of the former, to within one micro-batch. A bucket's last micro-batch of an epoch is filled from
    the bucket's start.

    Raises:
        JobError: nothing to draw from, or a share is asked for and one of the pools is empty.
    """

    def __init__(
        self, drawable: Sequence[DrawableSample], micro_batch: int, reference_share: float | None, seed: int
    ) -> None:
        if not drawable:
            raise JobError("no training samples are left; check the dataset's split, `exclude` and the cache's log")
        with_reference = [i for i, c in enumerate(drawable) if c.has_reference]
        without = [i for i, c in enumerate(drawable) if not c.has_reference]
        share = len(with_reference) / len(drawable) if reference_share is None else reference_share
        if (share > 0 and not with_reference) or (share < 1 and not without):
            raise JobError(
                f"run.reference_share is {share:.3g}, but the data holds {len(with_reference)} reference-based and "
                f"{len(without)} reference-free samples; set it to null to draw them as they are"
            )
        self._share = share
        self._seed = seed
        self._pools = {True: _grouped(drawable, with_reference), False: _grouped(drawable, without)}
        self._micro_batch = micro_batch
        self._epochs: dict[bool, tuple[int, list[tuple[int, ...]]]] = {}

    def at(self, index: int) -> tuple[int, ...]:
        """Positions of the samples in micro-batch `index` (from 0), all of one bucket."""
        before, after = int(index * self._share + 1e-9), int((index + 1) * self._share + 1e-9)
        reference = after > before
        position = before if reference else index - before
        groups = self._pools[reference]
        per_epoch = sum(-(-len(group) // self._micro_batch) for group in groups)
        epoch, within = divmod(position, per_epoch)
        cached = self._epochs.get(reference)
        if cached is None or cached[0] != epoch:
            cached = (epoch, self._epoch(groups, f"{reference}:{epoch}"))
            self._epochs[reference] = cached
        return cached[1][within]

    def _epoch(self, groups: list[list[int]], name: str) -> list[tuple[int, ...]]:
        rng = np.random.default_rng(derive_seed(self._seed, "epoch", name))
        size = self._micro_batch
        batches: list[tuple[int, ...]] = []
        for group in groups:
            shuffled = [group[i] for i in rng.permutation(len(group))]
            batches += [
                tuple(shuffled[i % len(shuffled)] for i in range(start, start + size))
                for start in range(0, len(shuffled), size)
            ]
        return [batches[i] for i in rng.permutation(len(batches))]


def derive_seed(seed: int, *parts: object) -> int:
    """A 63-bit seed from `seed` and what it is for."""
    text = ":".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _grouped(drawable: Sequence[DrawableSample], members: Sequence[int]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index in members:
        groups[drawable[index].bucket].append(index)
    return list(groups.values())
