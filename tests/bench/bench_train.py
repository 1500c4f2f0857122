"""How fast an adapter trains: seconds per sample, TFLOP/s and memory, against the plain loop in the same run.

    python tests/bench/bench_train.py --size full --random        # the real architecture on one GPU
    python tests/bench/bench_train.py --size tiny                 # a smoke test on a CPU

The plain loop is what a newcomer would write: diffusers' own forward pass under autocast, every block checkpointed,
nothing compiled. Both train the same rank-256 adapter (16 for tiny) on the same latents with AdamW, batch 1.

FLOP are counted for the model, not for the hardware: one forward pass is 13.59 GFLOP x N + 737,280 x N^2 (N image and
text tokens; measured from the architecture), and a training step is that forward, the gradient of every activation
(frozen weights have no gradient of their own, so the linear part counts once, attention twice) and the adapter's share.
What checkpointing repeats is not counted, so recomputing never looks like work.
"""

import argparse
import gc
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from refine_ops.model.doctor.random_weights import FULL, SMALL, random_pipeline
from refine_ops.model.speed import best_attention
from refine_ops.train.config import LoraSettings, OptimizerSettings
from refine_ops.train.denoiser import Checkpointing, Denoiser, trainable
from refine_ops.train.loss import boundary_loss
from refine_ops.train.optimize import make_optimizer
from refine_ops.train.samples.batches import Batch

TEXT_TOKENS = 700
H100_BF16_TFLOPS = 785.0
"""Measured 8192^3 matrix product; a ceiling that a step can be compared with."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One configuration's figures; `tflops` are model FLOP per second, `peak_gib` what the allocator held at most."""

    name: str
    side_px: int
    images: int
    tokens: int
    seconds: float
    spread_s: float
    samples_per_s: float
    tflops: float | None
    peak_gib: float | None
    loss: float


def make_batch(transformer: Any, side_px: int, images: int, text: int, device: torch.device) -> Batch:
    """Random latents of the given shapes: a noisy target, then `images - 1` condition images of the same size."""
    generator = torch.Generator().manual_seed(0)
    grid = side_px // 16
    tokens, channels = grid * grid, transformer.config.in_channels

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(
        clean=normal(1, tokens, channels),
        noise=normal(1, tokens, channels),
        band=torch.rand(1, tokens, 4, generator=generator),
        condition=normal(1, tokens * (images - 1), channels),
        text=normal(1, text, transformer.config.joint_attention_dim),
        text_mask=None,
        targets=None,
        sigma=torch.tensor([0.6]),
        weight=torch.ones(1),
        shapes=[(1, grid, grid)] * images,
        ids=("random",),
    ).to(device)


def model_flop(tokens: int, rank: int) -> float:
    """Of one training step at full size: forward, and the backward pass through activations and adapter."""
    linear, attention = 13.59e9 * tokens, 737_280.0 * tokens**2
    adapter = 60 * 4 * 2 * (2 * 3072 * rank) * tokens
    return 2 * linear + 3 * attention + 3 * adapter


def plain_step(model: Any, batch: Batch) -> Callable[[], torch.Tensor]:
    """diffusers' forward under autocast with every block checkpointed, as in its example scripts."""
    model.enable_gradient_checkpointing()

    def run() -> torch.Tensor:
        with torch.autocast(batch.clean.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            predicted = model(
                hidden_states=torch.cat([batch.noisy, batch.condition], 1).to(model.dtype),
                encoder_hidden_states=batch.text.to(model.dtype),
                timestep=batch.sigma,
                img_shapes=[batch.shapes],
                return_dict=False,
            )[0][:, : batch.clean.shape[1]]
        return boundary_loss(predicted, batch.velocity, batch.band, 9.0, batch.weight).objective

    return run


def our_step(model: Denoiser, batch: Batch) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        predicted = model(
            batch.noisy, batch.condition, batch.text, batch.text_mask, batch.sigma, batch.shapes, batch.targets
        )
        return boundary_loss(predicted, batch.velocity, batch.band, 9.0, batch.weight).objective

    return run


def measure(
    name: str,
    model: torch.nn.Module,
    step: Callable[[], torch.Tensor],
    batch: Batch,
    arguments: argparse.Namespace,
    device: torch.device,
) -> Timing:
    """Median over whole optimizer steps, the first ones left out."""
    optimizer = make_optimizer(trainable(model), OptimizerSettings())
    seconds, loss = [], torch.zeros(())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for number in range(arguments.warmup + arguments.repeats):
        _synchronize(device)
        start = time.perf_counter()
        with best_attention(device):
            loss = step()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _synchronize(device)
        if number >= arguments.warmup:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return Timing(
        name=name,
        side_px=batch.shapes[0][1] * 16,
        images=len(batch.shapes),
        tokens=batch.tokens,
        seconds=median,
        spread_s=max(seconds) - min(seconds),
        samples_per_s=1 / median,
        tflops=model_flop(batch.tokens, arguments.rank) / median / 1e12 if arguments.size == "full" else None,
        peak_gib=torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
        loss=float(loss.detach()),
    )


def variants(arguments: argparse.Namespace) -> Iterator[tuple[str, Checkpointing, bool]]:
    """Name, checkpointing and compilation of every way to train; the plain loop is apart."""
    wanted = arguments.only.split("/") if arguments.only else None
    kinds: tuple[Checkpointing, ...] = ("block", "selective", "none")
    for checkpointing, compiled in itertools.product(kinds, (False, True)):
        name = f"{checkpointing}{', compiled' if compiled else ''}"
        if wanted is None or name in wanted:
            yield name, checkpointing, compiled


def run(arguments: argparse.Namespace) -> list[Timing]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    full = arguments.size == "full"
    transformer = random_pipeline(FULL if full else SMALL, dtype=dtype, device=device).transformer
    _free(device)
    model = Denoiser(
        transformer,
        LoraSettings(rank=arguments.rank, alpha=arguments.rank),
        seed=0,
        checkpointing="block",
        compiled=False,
    )
    rows: list[Timing] = []
    print(f"{'':20} {'px':>5} {'img':>3} {'tokens':>7} {'s/sample':>9} {'+-':>6} {'TFLOP/s':>8} {'GiB':>6}  loss")
    for name, checkpointing, compiled in [("plain loop", "block", False), *variants(arguments)]:
        model.run_blocks_with(checkpointing, compiled)
        for side, images in itertools.product(arguments.sides, arguments.images):
            batch = make_batch(transformer, side, images, TEXT_TOKENS if full else 40, device)
            step = plain_step(transformer, batch) if name == "plain loop" else our_step(model, batch)
            reset_adapter(model)
            try:
                rows.append(measure(name, model, step, batch, arguments, device))
            except torch.OutOfMemoryError:
                print(f"{name:20} {side:5} {images:3} out of memory", flush=True)
                model.zero_grad(set_to_none=True)
            else:
                print(_line(rows[-1]), flush=True)
            _free(device)
    return rows


@torch.no_grad()
def reset_adapter(model: Denoiser) -> None:
    """Every measurement trains the same steps from the same start, so losses can be compared."""
    for name, parameter in trainable(model).items():
        parameter.copy_(
            torch.zeros(parameter.shape)
            if ".lora_B." in name
            else torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) / parameter.shape[1] ** 0.5
        )


def _line(row: Timing) -> str:
    tflops = "" if row.tflops is None else f"{row.tflops:.0f}"
    memory = "" if row.peak_gib is None else f"{row.peak_gib:.1f}"
    shape = f"{row.name:20} {row.side_px:5} {row.images:3} {row.tokens:7}"
    return f"{shape} {row.seconds:9.3f} {row.spread_s:6.3f} {tflops:>8} {memory:>6}  {row.loss:.5f}"


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main(given: list[str] | None = None) -> list[Timing]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "tiny"), default="tiny")
    parser.add_argument("--random", action="store_true", help="Random weights (the only kind; stated for the record).")
    parser.add_argument("--rank", type=int, default=None)
    parser.add_argument("--sides", type=int, nargs="+", default=None, help="Sides of the square crop, px.")
    parser.add_argument(
        "--images", type=int, nargs="+", default=[3, 4], help="Images in the sequence, target included."
    )
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="Variants, e.g. 'block/selective, compiled'; default all.")
    parser.add_argument("--json", default="", help="File for the rows.")
    arguments = parser.parse_args(given)
    full = arguments.size == "full"
    arguments.rank = arguments.rank or (256 if full else 16)
    arguments.sides = arguments.sides or ([512, 1024] if full else [64])
    rows = run(arguments)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump([asdict(row) for row in rows], file, indent=1)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
