"""build-dataset: the construction of Refine-30K (section 4) as a flow."""

import sys
import time
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from flows.prefect_engine import step
from flows.progress import duration
from refine_ops import storage
from refine_ops.data.building.build import build
from refine_ops.data.building.dataset_folder import BuildPlan, open_folder
from refine_ops.data.card.card import write_card
from refine_ops.data.config import BuildDatasetConfig
from refine_ops.errors import JobError


@step
def plan(config: BuildDatasetConfig) -> BuildPlan:
    found = open_folder(config)
    get_run_logger().info("%d samples in %d parts, %d parts to do", found.samples, found.parts, len(found.todo))
    return found


@step
def build_shards(config: BuildDatasetConfig, found: BuildPlan) -> None:
    logger, started = get_run_logger(), time.monotonic()
    for done, report in enumerate(build(config, found.todo), start=1):
        busy_s = sum(report.seconds.values())
        logger.info("part %d: %d samples, %d rejected, %.1f s", report.part, report.accepted, report.rejected, busy_s)
        left_s = (time.monotonic() - started) / done * (len(found.todo) - done)
        line = f"build: {found.parts - len(found.todo) + done}/{found.parts} parts of {config.samples_per_part} samples"
        print(f"{line}, {duration(left_s)} left" if left_s else line, file=sys.stderr, flush=True)


@step
def publish_card(config: BuildDatasetConfig) -> dict[str, Any]:
    out = storage.resolve(config.out)
    statistics = write_card(out)
    print(_throughput(statistics), file=sys.stderr)
    card = storage.read(storage.join(out, "README.md")).decode()
    create_markdown_artifact(card, key="dataset-card", description=f"Training set in {out}")
    return statistics


def _throughput(statistics: dict[str, Any]) -> str:
    """What the stages took, over all starts of this set, and why samples were rejected."""
    lines = [
        f"{stage:9} {took['calls']:8.0f} calls {took['seconds']:10.1f} s {took['per_s']:10.1f} per s and worker"
        for stage, took in statistics["throughput"].items()
    ]
    reasons = _reasons(statistics)
    return "\n".join([*lines, f"{statistics['rejects']} rejected" + (f": {reasons}" if reasons else "")])


def _reasons(statistics: dict[str, Any]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in statistics["reject_reasons"].items())


@flow(name="build-dataset")
def build_dataset(config: BuildDatasetConfig) -> dict[str, Any]:
    """Build or resume the training set in `config.out`; returns the statistics its card states.

    Raises:
        JobError: nothing could be built, or every sample was rejected; the card is written then, too.
    """
    found = plan(config)
    build_shards(config, found)
    statistics = publish_card(config)
    if not statistics["samples"]:
        raise JobError(
            f"0 samples in {config.out}, {statistics['rejects']} rejected: {_reasons(statistics)}. Each one's message "
            "is in rejects/; mend the source or the settings and build into a new folder"
        )
    return statistics
