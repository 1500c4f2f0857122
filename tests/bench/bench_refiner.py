"""How fast the refiner is, as ratios to baselines in the same run.

    python tests/bench/bench_refiner.py                        # the bundled tiny model, any machine
    python tests/bench/bench_refiner.py --size full --random   # the 20.4 B architecture, random weights, one 80-GiB GPU

Parts: `compare` (items/s and parity against diffusers' own loop), `steps` (seconds, TFLOP/s and share of the floor per
denoising step), `conditions` (cached conditions and sparse targets against the joint dense step, FLOPs counted),
`stages` (prompts, latents, decoding alone), `worker` (end to end, JPEG in and out). `--json` is written as the figures
come, so that a run that is cut short leaves those it had; `--minutes` ends `steps` and `conditions` early.
"""

import argparse
import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus as plus
import numpy as np
import refiner_conditions
import refiner_steps
import refiner_worker
import torch
from PIL import Image
from refiner_setup import Setup, make_items, make_setup

from refine_ops.config import ModelSettings
from refine_ops.model.load import Networks
from refine_ops.model.refiner import build_refiner
from refine_ops.records import Conditioning, F32Image

Save = Callable[[Any], None]
"""Takes what a part has measured so far."""

PARTS: dict[str, Callable[[Setup, argparse.Namespace, Save], Any]] = {
    # In this order: the worker is another process and wants the device's memory for itself, `stages` converts the VAE
    # and `steps` ends with quantised weights.
    "worker": lambda setup, options, _: refiner_worker.measure_worker(setup, options.items),
    "compare": lambda setup, options, _: compare(setup, options.items, options.batch_size, options.repeats),
    "stages": lambda setup, options, _: refiner_steps.measure_stages(setup, options.repeats),
    "conditions": lambda setup, options, save: refiner_conditions.measure_conditions(setup, options.repeats, save),
    "steps": lambda setup, options, save: refiner_steps.measure_steps(
        setup, options.repeats, options.modes, options.sides, save
    ),
}


def compare(setup: Setup, items: int, batch_size: int, repeats: int) -> dict[str, float]:
    """Items per second of `speed: fast` and of diffusers' loop with the model resident; best of alternating runs."""
    work = make_items(setup.side, items)
    pipeline = setup.pipeline()
    settings = ModelSettings(batch_size=batch_size, compile=setup.device.type == "cuda")
    shared = Networks.of(pipeline if setup.random else setup.pipeline())
    if setup.random:  # 58 GB once: the transformer and the text encoder are shared, only the VAE is converted
        shared = replace(shared, vae=type(shared.vae).from_config(shared.vae.config).to(setup.device, setup.dtype))
        shared.vae.load_state_dict(pipeline.vae.state_dict())
    refiner = build_refiner(shared, setup.preset, settings, setup.device, {})
    ours = refiner.refine(work[:batch_size])
    theirs = [diffusers_patch(pipeline, setup, item) for item in work[:1]]
    seconds: dict[str, list[float]] = {"fast": [], "diffusers": []}
    for _ in range(repeats):
        started = time.perf_counter()
        ours = refiner.refine(work)
        seconds["fast"].append(time.perf_counter() - started)
        started = time.perf_counter()
        theirs = [diffusers_patch(pipeline, setup, item) for item in work]
        seconds["diffusers"].append(time.perf_counter() - started)
    fast, stock = (items / min(seconds[name]) for name in ("fast", "diffusers"))
    difference = max(float(np.abs(a.pixels - b).max()) for a, b in zip(ours, theirs, strict=True))
    result = {"fast_items_per_s": fast, "diffusers_items_per_s": stock, "ratio": fast / stock, "max_diff": difference}
    print(
        f"{setup.side}^2, batch {batch_size}, {setup.preset.steps} steps: {fast:.3f} items/s against {stock:.3f} of "
        f"diffusers' loop: {fast / stock:.2f}x; largest pixel difference {difference:.1e}"
    )
    return result


def diffusers_patch(pipeline: Any, setup: Setup, item: Conditioning) -> F32Image:
    """One call of the stock pipeline, set to the same sizes and given right text positions."""
    height, width = item.image.shape[:2]
    plus.VAE_IMAGE_SIZE, plus.CONDITION_IMAGE_SIZE = width * height, setup.preset.vlm_pixels
    encoder, forward = pipeline.text_encoder, type(pipeline.text_encoder).forward
    encoder.forward = lambda input_ids, **rest: forward(
        encoder, input_ids=input_ids, mm_token_type_ids=(input_ids == encoder.config.image_token_id).int(), **rest
    )
    pipeline.set_progress_bar_config(disable=True)
    mask = Image.fromarray(item.mask.astype(np.uint8) * 255).convert("RGB")
    image: F32Image = pipeline(
        image=[Image.fromarray(item.image), mask], prompt=item.prompt, true_cfg_scale=1.0, height=height, width=width,
        num_inference_steps=setup.preset.steps, output_type="np", generator=torch.Generator().manual_seed(item.seed),
    ).images[0]  # fmt: skip
    del encoder.forward
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--random", action="store_true", help="random weights (the only way to run --size full)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=None, help="default 8 for tiny, 1 for full")
    parser.add_argument("--steps", type=int, default=None, help="default 4 for tiny, 8 for full")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=refiner_steps.MODES, help="of `steps`; default all")
    parser.add_argument("--sides", nargs="+", type=int, help="crops of `steps`, px; default 1024 512 256, tiny 128 64")
    parser.add_argument("--minutes", type=float, help="no further row of `steps` or `conditions` after this long")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.size == "full" and not (options.random and torch.cuda.is_available()):
        parser.error("--size full needs --random and a CUDA device with 80 GiB")
    options.batch_size = options.batch_size or (8 if options.size == "tiny" else 1)
    setup = make_setup(options.size, options.random, options.steps)
    print(f"{setup.name} on {setup.device_name}, {setup.dtype}, torch {torch.__version__}")
    figures: dict[str, Any] = {"device": setup.device_name}
    until = time.monotonic() + 60 * options.minutes if options.minutes else math.inf

    def save(part: str, measured: Any) -> None:
        figures[part] = measured
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1))
        if time.monotonic() > until:
            raise _TimeIsUp

    for part in PARTS:
        if part in options.parts:
            with contextlib.suppress(_TimeIsUp):
                save(part, PARTS[part](setup, options, partial(save, part)))


class _TimeIsUp(Exception):
    pass


if __name__ == "__main__":
    main()
