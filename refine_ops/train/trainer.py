"""The training loop: accumulate, check, step; validate and checkpoint on the way."""

import json
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from refine_ops.errors import JobError
from refine_ops.model.speed import best_attention
from refine_ops.train.adapter import adapter_bytes
from refine_ops.train.checkpoint import checkpoints, load_checkpoint, put_back, save_checkpoint, take
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.denoiser import Denoiser, trainable
from refine_ops.train.loss import boundary_loss
from refine_ops.train.metrics_log import LossWatch, MetricsLog, Pace, read_metrics
from refine_ops.train.optimize import (
    MovingAverage,
    learning_rate,
    make_optimizer,
    whole,
)
from refine_ops.train.samples.batches import Batch, TrainingBatches
from refine_ops.train.samples.loader import micro_batches, rank_batches

logger = logging.getLogger(__name__)

METRICS: Final = "metrics.jsonl"
CHECKPOINTS: Final = "checkpoints"
_PARTS: Final = 4


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained: the run's folder and settings, batches, and what the adapter's header will say."""

    config: TrainLoraConfig
    run: Path
    batches: TrainingBatches
    trained_as: dict[str, Any]
    fingerprint: dict[str, str]
    validate: Callable[[Denoiser, int], dict[str, float]] = field(default=lambda _model, _step: {})


class Stopped(JobError):
    """The run was asked to stop (SIGTERM) and did, with a checkpoint; the same command goes on."""


class Trainer:
    """One rank of a training. `fit` returns when all steps are done.

    Every decision to stop is made from gathered values, so all ranks make it at the same step.
    """

    def __init__(self, training: Training, model: Denoiser, accelerator: Any) -> None:
        config = training.config
        self._training, self._accelerator, self._device = training, accelerator, accelerator.device
        optimizer = make_optimizer(trainable(model), config.optimizer)
        sharded = config.run.sharding == "fsdp2"  # such a model exchanges its gradients itself
        self._model = model if sharded else accelerator.prepare_model(model)
        self._optimizer = accelerator.prepare_optimizer(optimizer)
        self._inner = model
        self._parameters = trainable(self._inner)
        decay = config.optimizer.ema_decay
        self._average = None if decay is None else MovingAverage(self._parameters, decay)
        self._accumulate = micro_batches(config.run) // accelerator.num_processes
        self._terminated = False

    def fit(self) -> dict[str, torch.Tensor]:
        """Train to the last step.

        Returns:
            The trained weights by parameter name, averaged where an average is kept; on every rank.

        Raises:
            JobError: the loss is not finite or explodes; `stopped.json` names the samples, checkpoints stay.
            Stopped: SIGTERM came.
        """
        config, start = self._training.config, self._resume()
        rows = read_metrics(self._training.run / METRICS)
        watch = LossWatch(config.run.loss_limit, [r["loss"] for r in rows if "loss" in r and r["step"] <= start])
        log = MetricsLog(self._training.run / METRICS, start) if self._accelerator.is_main_process else None
        pace = Pace(config.run.steps)
        place = (self._accelerator.process_index, self._accelerator.num_processes)
        batches = rank_batches(self._training.batches, config.run, start, *place)
        if start == 0:
            self._validate(0, log)
        before = signal.signal(signal.SIGTERM, self._terminate)
        try:
            for step in range(start, config.run.steps):
                values = self._step(step, batches, watch)
                values |= pace.step(step + 1, config.run.batch_size, int(values.pop("tokens")))
                self._record(log, step + 1, values)
                self._after(step + 1, log)
        finally:
            signal.signal(signal.SIGTERM, before)
            if log:
                log.close()
        kept = self._average.values if self._average else self._parameters
        return {name: whole(tensor.detach()) for name, tensor in kept.items()}

    def _after(self, done: int, log: MetricsLog | None) -> None:
        """Validate and checkpoint where `done` steps are a reason to; stop where SIGTERM came."""
        run = self._training.config.run
        if done % run.validate_every == 0 or done == run.steps:
            self._validate(done, log)
        stop = self._any(self._terminated)
        if done % run.checkpoint_every == 0 or done == run.steps or stop:
            self._save(done)
        if stop and done < run.steps:
            raise Stopped(f"stopped after step {done} as asked; run the same command again to go on")

    def _step(self, step: int, batches: Iterator[Batch], watch: LossWatch) -> dict[str, float]:
        """One optimizer step; returns its figures, gathered over ranks."""
        optimizer, config = self._optimizer, self._training.config.optimizer
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        parts = torch.zeros(self._accumulate, _PARTS + 1, dtype=torch.float64)
        for place in range(self._accumulate):
            last = place == self._accumulate - 1
            with nullcontext() if last else self._accelerator.no_sync(self._model):
                parts[place] = self._backward(next(batches))
        gathered = self._accelerator.gather(parts.to(self._device).float()).double().cpu()
        means = gathered[:, :_PARTS].nanmean(0).tolist()
        loss = float(gathered[:, 0].mean())
        # Without a limit the norm is only measured.
        limit = config.max_grad_norm or float("inf")
        norm = self._accelerator.clip_grad_norm_(list(self._parameters.values()), limit)
        gradient_norm = float(whole(norm.detach()))
        if objection := watch.objection(loss, gradient_norm):
            self._stop_diverged(step, objection)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self._average:
            self._average.update(step + 1)
        return {
            "loss": loss,
            "plain": means[1],
            "band": means[2],
            "interior": means[3],
            "gradient_norm": gradient_norm,
            "learning_rate": learning_rate(config, step),
            "tokens": float(gathered[:, _PARTS].sum()),
        }

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Add one micro-batch's gradient; returns objective, plain, band, interior loss and tokens."""
        batch = batch.to(self._device)
        with best_attention(self._device):
            predicted = self._model(
                batch.noisy, batch.condition, batch.text, batch.text_mask, batch.sigma, batch.shapes, batch.targets
            )
            parts = boundary_loss(
                predicted, batch.velocity, batch.band, self._training.config.loss.boundary_alpha, batch.weight
            )
            self._accelerator.backward(parts.objective / self._accumulate)
        values = [parts.objective.detach(), parts.plain, parts.band, parts.interior]
        return torch.stack([*values, torch.tensor(float(batch.tokens), device=self._device)]).cpu().double()

    def _validate(self, step: int, log: MetricsLog | None) -> None:
        with self._average.applied() if self._average else nullcontext():
            values = self._training.validate(self._inner, step)
        if values:
            self._record(log, step, values)

    def _record(self, log: MetricsLog | None, step: int, values: dict[str, float]) -> None:
        if log is None:
            return
        log.write(step, values)
        self._accelerator.log(values, step=step)
        logger.info("step %d/%d %s", step, self._training.config.run.steps, _line(values))

    def _save(self, step: int) -> None:
        """Checkpoint on the main process; the others help to put sharded tensors together."""
        config = self._training.config
        saved = take(step, self._parameters, self._average, self._optimizer)
        if self._accelerator.is_main_process:
            adapter = adapter_bytes(
                saved.parameters,
                rank=config.lora.rank,
                alpha=config.lora.alpha,
                trained_as=self._training.trained_as,
                fingerprint=self._training.fingerprint,
                dtype=torch.float32,
            )
            save_checkpoint(self._training.run / CHECKPOINTS, saved, adapter, config.run.keep_checkpoints)
        self._accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Load the newest checkpoint, if any; returns the number of steps done."""
        found = checkpoints(self._training.run / CHECKPOINTS)
        if not found:
            return 0
        saved = load_checkpoint(found[-1], list(self._parameters))
        put_back(saved, self._parameters, self._average, self._optimizer)
        logger.info("going on after step %d from %s", saved.step, found[-1])
        return saved.step

    def _stop_diverged(self, step: int, objection: str) -> None:
        samples = self._training.batches.samples_of_step(step, micro_batches(self._training.config.run))
        if self._accelerator.is_main_process:
            record = {"step": step + 1, "reason": objection, "samples": samples}
            (self._training.run / "stopped.json").write_text(json.dumps(record, indent=1))
        raise JobError(
            f"step {step + 1} was not taken: {objection}; samples {', '.join(samples[:8])}. The last checkpoint is "
            "good. Look at these samples, lower the learning rate or set optimizer.max_grad_norm, in a new run folder"
        )

    def _terminate(self, _number: int, _frame: object) -> None:
        self._terminated = True

    def _any(self, flag: bool) -> bool:
        total = self._accelerator.reduce(torch.tensor(float(flag), device=self._device), reduction="sum")
        return bool(total > 0)


def _line(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())
