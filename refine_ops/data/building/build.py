"""Building a set: shards over processes, each committed as one part. Resuming is skipping the parts that exist.

Neither the number of workers nor a restart changes a byte of samples, rejects or images.
"""

from collections.abc import Iterator, Sequence

from refine_ops import storage
from refine_ops.data.building.makers import make_maker
from refine_ops.data.building.pool import WorkerDied, run_shards
from refine_ops.data.building.shard import ShardReport, build_shard
from refine_ops.data.config import BuildDatasetConfig
from refine_ops.data.plan import PlannedSample, Shards
from refine_ops.errors import JobError

_MOST_POISON = 8
"""Samples that may each kill two workers before it counts as the machine's fault, not theirs."""

_STARTUP = "a worker died while it loaded its models: probably memory is short; run again with fewer workers"


def build(config: BuildDatasetConfig, todo: Shards) -> Iterator[ShardReport]:
    """Build the shards that are to do, yielding each as it is committed.

    With one worker everything runs in this process. With more, a death (a crash inside a library, killed for memory)
    is survived: the shards in the works are done again one at a time, and a sample that kills its worker once more,
    alone, is rejected as `worker.killed`.

    Raises:
        JobError: what a worker met that is no sample's fault, or workers keep dying; run again to go on.
    """
    left = dict(todo)
    if config.workers == 1:
        maker = make_maker(config, rank=0)
        for part, shard in sorted(left.items()):
            yield build_shard(storage.resolve(config.out), part, shard, maker)
        return
    poison: set[str] = set()
    while left:
        try:
            for report in run_shards(config, left, frozenset(poison), config.workers):
                del left[report.part]
                yield report
        except WorkerDied as died:
            suspects = [part for part, shard in left.items() if {c.sample_id for c in shard} & set(died.samples)]
            if not suspects:
                raise JobError(_STARTUP) from died
            for part in suspects:
                yield _alone(config, part, left.pop(part), poison)


def _alone(config: BuildDatasetConfig, part: int, shard: Sequence[PlannedSample], poison: set[str]) -> ShardReport:
    """One suspect shard in a process of its own, again until it is through; who kills it joins `poison`."""
    while True:
        try:
            [report] = run_shards(config, {part: shard}, frozenset(poison), workers=1)
            return report
        except WorkerDied as died:
            poison.update(died.samples)
            if not died.samples:
                raise JobError(_STARTUP) from died
            if len(poison) > _MOST_POISON:
                raise JobError(
                    f"{len(poison)} samples each killed their worker twice ({', '.join(sorted(poison))}): probably "
                    "memory is short; run the same command again with fewer workers or smaller images"
                ) from died
