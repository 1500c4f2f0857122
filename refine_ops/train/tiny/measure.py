"""The model card's figures: `python -m refine_ops.train.tiny.measure [--model FOLDER] [--cases N] [--lpips FOLDER]`.

Held-out fonts and photos only. Every sample is refined through the refiner a batch run uses, pasted back with Eq. 8's
blend and compared with the truth over M. A case is one rendered mark or photo region; intervals are over cases, for
these held-out fonts and photos.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refine_ops.config import ModelSettings
from refine_ops.data import synthetic
from refine_ops.data.stages.damages import ALL_EQUAL
from refine_ops.data.synthetic.render import PHOTO
from refine_ops.eval.metrics.metric import Scores
from refine_ops.eval.metrics.perceptual import lpips_network
from refine_ops.eval.stats import cluster_interval, paired_comparison
from refine_ops.image.difference import psnr
from refine_ops.image.paste import blend_mask, paste_back
from refine_ops.model.refiner import StagedRefiner, load_refiner
from refine_ops.records import Conditioning, U8Image
from refine_ops.train.tiny.samples import REPAIRABLE

SEED = 90_001
Distance = Callable[[U8Image, synthetic.SyntheticSample], float]


@dataclass(frozen=True, slots=True)
class HeldOutSet:
    """A held-out set. `pose` None means there is no reference."""

    name: str
    pose: float | None
    family: str = "marks"


SETTINGS = (
    HeldOutSet("marks, reference in the same pose", 0.0),
    HeldOutSet("marks, reference in a near pose (0.25)", 0.25),
    HeldOutSet("marks, reference in another pose (1.0)", 1.0),
    HeldOutSet("marks, no reference", None),
    HeldOutSet("photo regions, reference in the same pose", 0.0, PHOTO),
    HeldOutSet("photo regions, no reference", None, PHOTO),
)


def held_out(setting: HeldOutSet, cases: int) -> list[synthetic.SyntheticSample]:
    """Samples of one set; the same for every model."""
    pose = (0.0, 0.0) if setting.pose is None else (setting.pose, setting.pose)
    recipe = synthetic.Recipe(
        seed=SEED, reference_share=float(setting.pose is not None), pose=pose, strength=(0.2, 1.0),
        photo_regions=float(setting.family == PHOTO),
        damages=REPAIRABLE if setting.pose is None else ALL_EQUAL,
    )  # fmt: skip
    library = synthetic.library("heldout")
    return [synthetic.render(index, recipe, library) for index in range(cases)]


def refine(
    refiner: StagedRefiner, samples: Sequence[synthetic.SyntheticSample], references: Sequence[U8Image | None]
) -> list[U8Image]:
    """Refined and pasted-back crops, `uint8 (h, w, 3)`."""
    items = [
        Conditioning(one.input, one.mask, one.support, one.prompt, seed=number, reference=reference)
        for number, (one, reference) in enumerate(zip(samples, references, strict=True))
    ]
    return [
        paste_back(item.image, patch.pixels * 255, blend_mask(item.mask) * patch.generated)
        for item, patch in zip(items, refiner.refine(items), strict=True)
    ]


def lpips_alex(folder: str) -> Distance:
    """LPIPS (AlexNet) of the whole crop."""
    network = lpips_network("alexnet", folder, False, torch.device("cpu"))

    def distance(image: U8Image, sample: synthetic.SyntheticSample) -> float:
        pair = torch.from_numpy(np.stack([image, sample.target])).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            return float(network(pair[:1], pair[1:]))

    return distance


def measure(model: str, cases: int, lpips: str | None) -> list[dict[str, Any]]:
    """One row per set and condition, with means and 95 % intervals in dB, and seconds per region."""
    refiner = load_refiner(ModelSettings(model=model), torch.device("cpu"))
    sparse = load_refiner(ModelSettings(model=model, targets="sparse"), torch.device("cpu"))
    distance = None if lpips is None else lpips_alex(lpips)
    rows = []
    for setting in SETTINGS:
        samples = held_out(setting, cases)
        right = [one.reference for one in samples]
        conditions: dict[str, tuple[StagedRefiner, list[U8Image | None]]] = {"refined": (refiner, right)}
        conditions["refined, sparse targets"] = (sparse, right)
        if setting.pose is not None:
            conditions["with a wrong reference"] = (refiner, right[1:] + right[:1])
            conditions["without a reference"] = (refiner, [None] * cases)
        degraded = np.array([psnr(one.input, one.target, one.mask) for one in samples])
        rows.append(_row(setting, "degraded", degraded, degraded, [one.input for one in samples], samples, distance))
        for name, (engine, references) in conditions.items():
            started = time.perf_counter()
            images = refine(engine, samples, references)
            seconds = (time.perf_counter() - started) / cases
            scores = np.array([psnr(image, one.target, one.mask) for image, one in zip(images, samples, strict=True)])
            rows.append(_row(setting, name, scores, degraded, images, samples, distance) | {"seconds": seconds})
    return rows


def _row(
    setting: HeldOutSet, name: str, scores: Scores, degraded: Scores, images: list[U8Image],
    samples: list[synthetic.SyntheticSample], distance: Distance | None,
) -> dict[str, Any]:  # fmt: skip
    case = np.arange(len(scores))
    here, gain = cluster_interval(scores, case), paired_comparison(degraded, scores, case)
    row: dict[str, Any] = {"set": setting.name, "condition": name, "cases": len(scores)}
    row |= {"psnr": here.mean, "psnr_low": here.low, "psnr_high": here.high}
    row |= {"gain": gain.difference, "gain_low": gain.low, "gain_high": gain.high}
    if distance is not None:
        row["lpips"] = float(np.mean([distance(*pair) for pair in zip(images, samples, strict=True)]))
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = "| set | condition | PSNR over M, dB | gain, dB | LPIPS | s per region |\n" + "| --- " * 6 + "|"
    return "\n".join([head, *map(_line, rows)])


def _line(row: dict[str, Any]) -> str:
    lpips, seconds = (f"{row[key]:.{digits}f}" if key in row else "-" for key, digits in (("lpips", 3), ("seconds", 2)))
    return (
        f"| {row['set']} | {row['condition']} | {row['psnr']:.2f} [{row['psnr_low']:.2f}, {row['psnr_high']:.2f}] "
        f"| {row['gain']:+.2f} [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}] | {lpips} | {seconds} |"
    )


def main() -> None:
    """Print the table; `--json FILE` also writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="preset name or folder")
    parser.add_argument("--cases", type=int, default=96, help="samples per set")
    parser.add_argument("--lpips", help="folder with alexnet.safetensors (torchvision's); without it LPIPS is left out")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    rows = measure(options.model, options.cases, options.lpips)
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
