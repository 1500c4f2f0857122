"""`--plan-only`: what a run would cost, from measured times."""

from dataclasses import dataclass
from typing import Final

from flows.progress import Ticker, duration
from refine_ops.config import RefineBatchConfig
from refine_ops.job.planning.plan import Plan, make_plan
from refine_ops.model.presets import PRESETS

_H100_STEP_S: Final = 0.569
"""One denoising step of three 1024^2 images, bf16, regional compile, one H100 (full-size random weights)."""
_H100_STAGES_S: Final = 0.136 + 0.148 + 0.077
"""Text encoder, VAE encoding of three images, VAE decoding, same machine."""
_TINY_REGION_S: Final = 0.26
"""One region on two CPU cores, the slowest set of the checkpoint's card (`python -m refine_ops.train.tiny.measure`)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time of one preset for a plan; `device_s` is on one device of the kind named."""

    preset: str
    device: str
    region_s: float
    device_s: float


def plan_only(config: RefineBatchConfig) -> str:
    """What the run would do and cost, as text; nothing is written.

    Raises:
        JobError: the manifest cannot be read, or is refused as a whole.
    """
    plan = make_plan(
        config.manifest,
        None,
        access=config.access,
        limit=config.limit,
        shard_items=config.shard_items,
        any_suffix=config.refine.write.changes_suffixes,
        allow_empty=config.allow_empty,
        on_progress=Ticker("plan").update,
    )
    return describe(plan)


def estimates(plan: Plan) -> list[Estimate]:
    """Model time per preset; reading and writing are hidden behind it. A reference image adds half again."""
    found = []
    for name, preset in PRESETS.items():
        passes = preset.steps * (2 if preset.true_cfg_scale > 1.0 else 1)
        region_s = _TINY_REGION_S if name == "tiny" else passes * _H100_STEP_S + _H100_STAGES_S
        found.append(Estimate(name, "2 CPU cores" if name == "tiny" else "one H100", region_s, region_s * plan.regions))
    return found


def describe(plan: Plan) -> str:
    """The plan and its estimates as text."""
    lines = [
        f"{plan.items:,} images, {plan.regions:,} regions, {plan.shards:,} shards",
        f"{len(plan.problems):,} rows cannot be refined (see `refine-ops check`)",
        "",
        f"{'preset':34}{'model pixels':>18}{'per region':>13}{'in all':>20}",
    ]
    for estimate in estimates(plan):
        pixels = PRESETS[estimate.preset].focus_pixels * plan.regions
        lines.append(
            f"{estimate.preset:34}{pixels:>18,}{estimate.region_s:>11.1f} s{duration(estimate.device_s):>20}"
            f" on {estimate.device}"
        )
    return "\n".join(lines)
