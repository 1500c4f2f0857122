"""One shard: candidates in, one Parquet part out. What cannot become a sample is recorded with its reason."""

from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2

from refine_ops.data.building.images import ImageWriter
from refine_ops.data.building.parts import reject_row, sample_row, write_part
from refine_ops.data.plan import Candidate
from refine_ops.data.stages.attempt import Attempt, Maker, StageTimes
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
    candidates: Sequence[Candidate],
    maker: Maker,
    poison: Container[str] = (),
    note: Callable[[Candidate | None], None] = lambda _: None,
) -> ShardReport:
    """Try every candidate, in order, and commit the part.

    Args:
        poison: Ids of samples that killed their workers: rejected without a try.
        note: Told what is being worked on, for whoever looks after this process.

    Raises:
        JobError: nothing more can be done (an endpoint is down, the disk is full); the shard is done again on resume.
    """
    times, before = StageTimes(), maker.usage
    samples, rejects = [], []
    with ImageWriter(out) as images:
        for candidate in candidates:
            attempt = Attempt(times)
            note(candidate)
            try:
                if candidate.sample_id in poison:
                    raise ItemError("worker.killed", "its worker died twice at this sample, once with it alone")
                samples.append(_one(images, candidate, maker, attempt))
            except ItemError as e:
                rejects.append(reject_row(images, candidate, attempt.stage, e, attempt.images))
            except cv2.error as e:  # OpenCV's own checks: this image, not the job
                error = ItemError("opencv.failed", str(e))
                rejects.append(reject_row(images, candidate, attempt.stage, error, attempt.images))
        note(None)
        with Attempt(times).enter("write"):
            images.finish()
    seconds, calls = dict(times.seconds), dict(times.calls)
    report = ShardReport(part, len(samples), len(rejects), seconds, calls, maker.usage - before)
    write_part(out, part, samples, rejects, asdict(report))
    return report


def _one(images: ImageWriter, candidate: Candidate, maker: Maker, attempt: Attempt) -> dict[str, Any]:
    sample = maker.make(candidate, attempt)
    with attempt.enter("check"):
        check(sample)
    with attempt.enter("write"):
        return sample_row(images, candidate, sample)
