"""The transformer's training loop: resumable from its own bfloat16 average, bounded by minutes, not steps."""

import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel

from refine_ops.data.synthetic.prompts import all_prompts
from refine_ops.model.stages import unpack
from refine_ops.train.optimize import MovingAverage, load_parameters
from refine_ops.train.tiny.samples import Mix, RenderedBatches, rendered_ahead
from refine_ops.train.tiny.transformer import channel_weights, encode_batch, loss_of, replayed, velocity

log = logging.getLogger(__name__)
KEPT = 300
REPLAYED = 0.6
"""Batches remembered, and the share of steps that take one of them."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast. `poses` is the bound of the reference's pose at the start and at the end."""

    minutes: float
    mix: Mix
    peak_rate: float = 6e-4
    warmup: int = 80
    poses: tuple[float, float] = (0.05, 0.4)
    ema: float = 0.995
    seed: int = 0
    compile: bool = True
    save_every_s: float = 240.0
    log_every: int = 25
    folders: tuple[Path, ...] = ()
    phases: int = 4
    """The pose is loosened in this many equal stretches; each starts its renderer anew."""


def train(
    model: QwenImageTransformer2DModel, vae: Any, schedule: Schedule, out: Path, device: torch.device
) -> QwenImageTransformer2DModel:
    """Train `model` in place for `schedule.minutes` and leave its average in it; saves to `out` as it goes."""
    model.to(device).train()
    vae.to(device).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
    parameters = dict(model.named_parameters())
    average = MovingAverage(parameters, schedule.ema, head_start=0)
    run = torch.compile(velocity, dynamic=False) if schedule.compile else velocity
    generator = torch.Generator().manual_seed(schedule.seed + int(time.time()) % 100_000)
    weights: torch.Tensor | None = None
    started, saved, step, recent = time.monotonic(), time.monotonic(), 0, []
    for phase in range(schedule.phases):
        ends = started + schedule.minutes * 60 * (phase + 1) / schedule.phases
        bound = schedule.poses[0] + (schedule.poses[1] - schedule.poses[0]) * phase / max(schedule.phases - 1, 1)
        recipe = replace(schedule.mix.recipe, seed=schedule.mix.recipe.seed + phase)
        mix = replace(schedule.mix, pose=bound, recipe=recipe)
        rendered = rendered_ahead(RenderedBatches(mix, schedule.folders, all_prompts()))
        fresh = (encode_batch(vae, batch, device) for batch in rendered)
        for batch in replayed(fresh, KEPT, REPLAYED, generator):
            if weights is None:
                rows, columns = batch.shapes[0][1:]
                weights = channel_weights(vae, unpack(batch.target, 2 * rows, 2 * columns))
            rate = _rate(schedule, step, (time.monotonic() - started) / (schedule.minutes * 60))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(model, batch, weights, generator, run)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            average.update(step)
            recent.append(float(loss.detach()))
            if step % schedule.log_every == 0:
                elapsed = time.monotonic() - started
                log.info(
                    "step %d %.0f s loss %.4f rate %.1e pose %.2f",
                    step, elapsed, sum(recent) / len(recent), rate, bound,
                )  # fmt: skip
                recent.clear()
            if time.monotonic() - saved > schedule.save_every_s:
                save(average, model, out, step)
                saved = time.monotonic()
            if time.monotonic() > ends:
                break
    save(average, model, out, step)
    load_parameters(parameters, average.values)
    return model


def _rate(schedule: Schedule, step: int, done: float) -> float:
    """Linear warm-up, then down to a twentieth along a straight line."""
    return schedule.peak_rate * min(1.0, (step + 1) / schedule.warmup) * max(0.05, 1.0 - done)


def save(average: MovingAverage, model: QwenImageTransformer2DModel, out: Path, step: int) -> None:
    """Write the average as bfloat16 to `out/transformer`, complete before it replaces the last."""
    config = model.config
    fresh = QwenImageTransformer2DModel.from_config(config)
    fresh.load_state_dict(average.values)
    fresh.to(torch.bfloat16).save_pretrained(out / "transformer.new", safe_serialization=True, max_shard_size="14MB")
    target, old = out / "transformer", out / "transformer.old"
    if target.exists():
        target.rename(old)
    (out / "transformer.new").rename(target)
    if old.exists():
        for path in old.iterdir():
            path.unlink()
        old.rmdir()
    (out / "progress.json").write_text(json.dumps({"steps": step}))
