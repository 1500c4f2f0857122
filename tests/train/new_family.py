"""What an adapter gains on pictures and damage that the bundled checkpoint's recipe cannot draw.

    python -m tests.train.new_family --steps 300 --out FOLDER

`halftone` is a style: the picture is printed with a screen of dots. `washed_out` is a damage: inside the mask the tones
are drawn towards a light veil of any hue. Neither is a family of the synthetic source, so no recipe of the checkpoint
ever drew one. There is no reference: nothing can be copied. Training and held-out pictures share no font and no photo.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from refine_ops.chain import refine_image
from refine_ops.config import FocusSettings, ImageLimits, ModelSettings, RefineSettings
from refine_ops.data import synthetic
from refine_ops.data.stages.sample import damage
from refine_ops.eval.stats import cluster_interval, paired_comparison
from refine_ops.image.mask import decode_mask
from refine_ops.image.read import decode
from refine_ops.model.refiner import load_refiner
from refine_ops.records import Item, Region
from refine_ops.train.config import (
    CropSettings,
    LoraSettings,
    LossSettings,
    OptimizerSettings,
    RunSettings,
    TrainLoraConfig,
)
from refine_ops.train.run import train
from refine_ops.train.samples.dataset import TrainingSample, read_files, read_samples
from tests.support.dataset_folder import Picture, write_dataset

STYLE, DAMAGE = "halftone", "washed_out"
SIDE_PX = 64
FOCUS = FocusSettings(focus_pixels=SIDE_PX * SIDE_PX)


def halftone(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`image` under a turned screen of dots, 6 to 9 px apart: tones pushed up on the dots and down between them."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    turn, pitch = rng.uniform(0, np.pi / 2), rng.uniform(6, 9)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    screen = np.cos(2 * np.pi * u / pitch) + np.cos(2 * np.pi * v / pitch)
    return np.clip(np.rint(image + 28 * screen[:, :, None]), 0, 255).astype(np.uint8)


def washed_out(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tones drawn 55 to 75 % of the way towards a light colour."""
    share, veil = rng.uniform(0.55, 0.75), rng.uniform(150, 230, 3)
    return np.rint((1 - share) * image + share * veil).astype(np.uint8)


def draw(number: int, split: str) -> Picture:
    """Picture `number` of a split: a window of a rendered mark or photo region around its mask."""
    library = synthetic.library("train" if split == "train" else "heldout")
    sample = synthetic.render(number, synthetic.Recipe(seed=31, reference_share=0.0), library)
    rng = np.random.default_rng((32, number, split == "train"))
    rows, columns = np.nonzero(sample.mask)
    at = int(rng.integers(rows.size))
    y, x = (int(np.clip(v - SIDE_PX // 2, 0, 128 - SIDE_PX)) for v in (rows[at], columns[at]))
    window = np.s_[y : y + SIDE_PX, x : x + SIDE_PX]
    target, mask = halftone(sample.target[window], rng), np.ascontiguousarray(sample.mask[window])
    made, _ = damage(target, mask, washed_out(target, rng), (0, 0, SIDE_PX, SIDE_PX))
    return Picture(
        name=f"{split}-{number:04d}",
        split=split,
        input=made,
        target=target,
        mask=mask,
        reference=None,
        prompt=sample.prompt,
        families=(STYLE, DAMAGE),
    )


def build(folder: Path, train: int, held_out: int) -> Path:
    """A dataset of the family; the held-out split is its validation split."""
    counts = {"train": train, "validation": held_out}
    return write_dataset(folder, [draw(n, split) for split, count in counts.items() for n in range(count)])


def settings(dataset: Path, out: Path, steps: int, model: str = "tiny") -> TrainLoraConfig:
    """Rank 16, eight pictures a step, trained where the checkpoint's one step is."""
    return TrainLoraConfig(
        dataset=str(dataset),
        out=str(out),
        model=ModelSettings(model=model, device="cpu"),
        lora=LoraSettings(rank=16, alpha=16),
        crop=CropSettings(geometry=FOCUS),
        loss=LossSettings(shift=1000.0),
        optimizer=OptimizerSettings(learning_rate=1e-3, max_grad_norm=1.0, ema_decay=0.98),
        run=RunSettings(
            steps=steps, batch_size=8, micro_batch=4, text_multiple=32, reference_share=None, checkpoint_every=100,
            validate_every=100, validation_items=16, grid_items=4, processes=1, checkpointing="none", tracker="none",
            loader_workers=0,
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FamilyScores:
    """PSNR over the mask in dB, one value per held-out picture."""

    damaged: np.ndarray
    base: np.ndarray
    adapted: np.ndarray


def measure(dataset: Path, adapter: Path, model: str = "tiny") -> FamilyScores:
    """Refine every held-out picture as a batch run would, with and without the adapter."""
    held_out = [sample for sample in read_samples(str(dataset)) if sample.split == "validation"]
    return FamilyScores(
        damaged=np.array([_psnr(s, read_files(s, ImageLimits())[s.input]) for s in held_out]),
        base=_refined(held_out, ModelSettings(model=model, device="cpu")),
        adapted=_refined(held_out, ModelSettings(model=model, device="cpu", adapters=(str(adapter),))),
    )


def _refined(samples: list[TrainingSample], model: ModelSettings) -> np.ndarray:
    configured = RefineSettings(model=model, focus=FOCUS)
    configured = configured.model_copy(update={"write": configured.write.model_copy(update={"allow_unchanged": True})})
    refiner = load_refiner(model, torch.device("cpu"))
    scores = []
    for sample in samples:
        region = Region("r0", sample.prompt, mask=sample.mask)
        item = Item(sample.sample_id, sample.input, sample.sample_id, (region,), row=0)
        finished = refine_image(item, read_files(sample, configured.limits), refiner, configured)
        scores.append(_psnr(sample, finished.data))
    return np.array(scores)


def _psnr(sample: TrainingSample, made: bytes) -> float:
    files, limits = read_files(sample, ImageLimits()), ImageLimits()
    target = decode(files[sample.target], name=sample.target, limits=limits)
    mask = decode_mask(files[sample.mask], name=sample.mask, size=target.size, limits=limits)
    error = decode(made, name="made", limits=limits).rgb[mask].astype(np.float64) - target.rgb[mask]
    return float(10 * np.log10(255**2 / np.square(error).mean()))


def table(scores: FamilyScores) -> str:
    """Means over held-out pictures with 95 % intervals, and the paired gain over the base."""
    case = np.arange(len(scores.base))
    lines = [f"| {len(case)} held-out pictures | PSNR over M, dB | gain over the base, dB |", "| --- | --- | --- |"]
    for name, values in (("damaged", scores.damaged), ("base", scores.base), ("base + LoRA", scores.adapted)):
        here, gain = cluster_interval(values, case), paired_comparison(scores.base, values, case)
        difference = "" if name == "base" else f"{gain.difference:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
        lines.append(f"| {name} | {here.mean:.2f} [{here.low:.2f}, {here.high:.2f}] | {difference} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new folder for the data and the run")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--train", type=int, default=400, help="pictures to train on")
    parser.add_argument("--held-out", type=int, default=64, help="pictures to measure on")
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args()
    dataset = build(options.out / "data", options.train, options.held_out)
    started = time.perf_counter()
    result = train(settings(dataset, options.out / "run", options.steps, options.model))
    print(f"trained {options.steps} steps in {time.perf_counter() - started:.0f} s")
    print(table(measure(dataset, result.adapter, options.model)))


if __name__ == "__main__":
    main()
