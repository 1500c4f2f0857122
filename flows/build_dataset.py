"""build-dataset: the construction of Refine-30K (section 4) as a flow."""

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from refine_ops import storage
from refine_ops.data.build import build
from refine_ops.data.card import write_card
from refine_ops.data.config import BuildDatasetConfig
from refine_ops.data.folder import Plan, open_folder


@task(name="plan")
def plan(config: BuildDatasetConfig) -> Plan:
    found = open_folder(config)
    get_run_logger().info("%d samples in %d parts, %d parts to do", found.candidates, found.parts, len(found.todo))
    return found


@task(name="build")
def build_shards(config: BuildDatasetConfig, found: Plan) -> None:
    logger = get_run_logger()
    for done, report in enumerate(build(config, found.todo), start=found.parts - len(found.todo) + 1):
        busy_s = sum(report.seconds.values())
        logger.info(
            "part %d (%d of %d): %d samples, %d rejected, %.1f s",
            *(report.part, done, found.parts, report.accepted, report.rejected, busy_s),
        )


@task(name="card")
def publish_card(config: BuildDatasetConfig) -> dict[str, object]:
    out = storage.resolve(config.out)
    statistics = write_card(out)
    for stage, figures in statistics["throughput"].items():
        get_run_logger().info("%-9s %8d calls %10.1f s %8.1f per s and worker", stage, *figures.values())
    card = storage.read(storage.join(out, "README.md")).decode()
    create_markdown_artifact(card, key="dataset-card", description=f"Training set in {out}")
    return statistics


@flow(name="build-dataset")
def build_dataset(config: BuildDatasetConfig) -> dict[str, object]:
    """Build or resume the training set in `config.out`; returns the statistics its card states."""
    found = plan(config)
    build_shards(config, found)
    return publish_card(config)
