"""One shard: planned samples in, one Parquet part out. What cannot become a sample is recorded with its reason."""

from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2

from refine_ops.data.building.images import ImageWriter
from refine_ops.data.building.parts import reject_row, sample_row, write_part
from refine_ops.data.plan import PlannedSample
from refine_ops.data.stages.attempt import Maker, SampleAttempt, StageTimes
from refine_ops.data.stages.sample import check
from refine_ops.errors import ItemError
from refine_ops.vlm.questions import Usage


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a shard came to, and what it took."""

    part: int
    accepted: int
    rejected: int
    seconds: dict[str, float]
    calls: dict[str, int]
    usage: Usage


def build_shard(
    out: str,
    part: int,
    shard: Sequence[PlannedSample],
    maker: Maker,
    poison: Container[str] = (),
    note: Callable[[PlannedSample | None], None] = lambda _: None,
) -> ShardReport:
    """Try every planned sample, in order, and commit the part.

    Args:
        poison: Ids of samples that killed their workers: rejected without a try.
        note: Told what is being worked on, for whoever looks after this process.

    Raises:
        JobError: nothing more can be done (an endpoint is down, the disk is full); the shard is done again on resume.
    """
    times, before = StageTimes(), maker.usage
    samples, rejects = [], []
    with ImageWriter(out) as images:
        for planned in shard:
            attempt = SampleAttempt(times)
            note(planned)
            try:
                if planned.sample_id in poison:
                    raise ItemError("worker.killed", "its worker died twice at this sample, once with it alone")
                samples.append(_one(images, planned, maker, attempt))
            except ItemError as e:
                rejects.append(reject_row(images, planned, attempt.stage, e, attempt.images))
            except cv2.error as e:  # OpenCV's own checks: this image, not the job
                error = ItemError("opencv.failed", str(e))
                rejects.append(reject_row(images, planned, attempt.stage, error, attempt.images))
        note(None)
        with SampleAttempt(times).enter("write"):
            images.finish()
    seconds, calls = dict(times.seconds), dict(times.calls)
    report = ShardReport(part, len(samples), len(rejects), seconds, calls, maker.usage - before)
    write_part(out, part, samples, rejects, asdict(report))
    return report


def _one(images: ImageWriter, planned: PlannedSample, maker: Maker, attempt: SampleAttempt) -> dict[str, Any]:
    sample = maker.make(planned, attempt)
    with attempt.enter("check"):
        check(sample)
    with attempt.enter("write"):
        return sample_row(images, planned, sample)
