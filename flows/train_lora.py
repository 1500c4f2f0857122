"""Flow `train-lora`: check, train, publish, compare on held-out cases, promote; artifacts for curve, grid and decision.

Flow `train-ablations` trains the same with each part of the method left out, and evaluates all (Table 3).
"""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from prefect import flow, get_run_logger
from prefect.artifacts import create_image_artifact, create_markdown_artifact

from flows.prefect_engine import step
from refine_ops.adapters import AdapterCard
from refine_ops.eval.run import Evaluation, evaluate
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.metrics_log import read_metrics
from refine_ops.train.promotion.ablation import evaluation, variants
from refine_ops.train.promotion.promote import PromotionResult, decide_promotion, publish
from refine_ops.train.run import TrainResult, placed, train


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run of the flow gave; `promotion` is None where no registry is set."""

    result: TrainResult
    promotion: PromotionResult | None


@flow(name="train-lora", flow_run_name="train {config.out}")
def train_lora(config: TrainLoraConfig) -> Trained:
    """Train an adapter and, where a registry is set, make it current if it is better than what is.

    The same `out` resumes: finished phases are only read.

    Raises:
        JobError: settings or data do not allow it, the loss diverged, or the metric of promotion cannot be measured.
    """
    config = placed(config)
    result = run_training(config)
    show_training(config, result)
    if config.registry is None:
        return Trained(result, None)
    card = publish_adapter(config, result)
    promotion = compare_adapter(config, card.version)
    show_decision(promotion)
    return Trained(result, promotion)


@flow(name="train-ablations", flow_run_name="ablations {config.out}")
def train_ablations(config: TrainLoraConfig) -> Evaluation:
    """Train with the whole method and without each part, and compare them on `promotion.cases`. The same `out` resumes.

    Raises:
        JobError: settings or data do not allow it, or a loss diverged.
    """
    config = placed(config)
    adapters = {variant.name: run_training(variant.train).adapter for variant in variants(config)}
    return evaluate_ablations(config, adapters)


@step
def run_training(config: TrainLoraConfig) -> TrainResult:
    """All phases that need the accelerators, as one process group under this process."""
    return train(config)


@step
def show_training(config: TrainLoraConfig, result: TrainResult) -> None:
    run = Path(config.out)
    create_markdown_artifact(key="train-lora-curve", markdown=curve(run), description=f"Adapter {result.sha256[:10]}")
    pictures = sorted((run / "validation").glob("step-*.png"))
    if pictures:
        create_image_artifact(
            image_url=inline_image(pictures[-1]), key="train-lora-grid", description="input, refined, target"
        )


@step
def publish_adapter(config: TrainLoraConfig, result: TrainResult) -> AdapterCard:
    return publish(config, result)


@step
def compare_adapter(config: TrainLoraConfig, version: str) -> PromotionResult:
    return decide_promotion(config, version)


@step
def evaluate_ablations(config: TrainLoraConfig, adapters: dict[str, Path]) -> Evaluation:
    done = evaluate(evaluation(config, adapters))
    create_markdown_artifact(key="train-ablations", markdown=done.markdown, description=done.uri)
    return done


@step
def show_decision(promotion: PromotionResult) -> None:
    against = promotion.incumbent or "the base model"
    decision, notes = promotion.decision, [f"- {note}" for note in promotion.notes]
    lines = [f"# {promotion.version} against {against}", decision.markdown, *notes]
    create_markdown_artifact(key="train-lora-promotion", markdown="\n".join(lines), description=decision.verdict)
    get_run_logger().info("%s", decision.summary)


def curve(run: Path) -> str:
    """The loss curves as a Markdown table of at most 30 rows: training means between validations beside those."""
    rows = read_metrics(run / "metrics.jsonl")
    steps = [row for row in rows if "validation_loss" in row]
    stride = max(1, len(steps) // 30)
    shown = steps[::stride] if not steps or steps[-1] in steps[::stride] else [*steps[::stride], steps[-1]]
    lines = ["| step | training loss | held-out loss | in the band | off the band |", "|---|---|---|---|---|"]
    last = 0
    for row in shown:
        losses = [r["loss"] for r in rows if "loss" in r and last < r["step"] <= row["step"]]
        mean = f"{sum(losses) / len(losses):.4g}" if losses else ""
        held_out = (row["validation_loss"], row["validation_band"], row["validation_interior"])
        lines.append(f"| {row['step']} | {mean} | " + " | ".join(number(value) for value in held_out) + " |")
        last = row["step"]
    return "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def inline_image(path: Path, side_px: int = 768) -> str:
    """A data URL, for the server cannot reach a local file; shrunk to keep the database small."""
    image = Image.open(path)
    image.thumbnail((side_px, side_px))
    sink = io.BytesIO()
    image.save(sink, "webp", quality=80)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()
