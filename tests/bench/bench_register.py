"""What registration is worth: composites with a known pose, their near misses, and RefineEval-mini's references.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_register composites [--side heldout] [--first 0] [--count 60]
    OMP_NUM_THREADS=1 python -m tests.bench.bench_register mini CASES [--tiny]

`--side train` is what the limits of `verdict.py` were fitted on; `heldout` (other fonts, other photos) and
RefineEval-mini are measured only. Seconds are CPU seconds of one core. Tables are Markdown.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from refine_ops.image import focus
from refine_ops.image.registration.register import Registered, register
from tests.bench.composites import DAMAGES, composite, pose_error, shown

WRONG = 1000
"""Composite n's wrong reference is that of n + 1000."""


@dataclass(frozen=True)
class CompositeResult:
    """One reference given for one composite."""

    number: int
    geometry: str
    damage: str
    kind: str
    given: str
    found: Registered
    error_px: float
    gain_db: float
    seconds: float


def psnr(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-3, np.square(one[mask].astype(float) - other[mask]).mean())))


def timed(reference: np.ndarray, view: np.ndarray, mask: np.ndarray) -> tuple[Registered, float]:
    start = time.process_time()
    found = register(reference, view, mask)
    return found, time.process_time() - start


def composites(side: str, numbers: Iterable[int]) -> Iterator[CompositeResult]:
    for number in numbers:
        made = composite(number, side)
        view, mask, crop = shown(made)
        truth = focus.view(made.target, crop)
        wrong = composite(number + WRONG, side).reference
        for given, reference in {"right": made.reference, **made.near_miss, "wrong": wrong}.items():
            found, seconds = timed(reference, view, mask)
            error = float("inf") if found.transform is None else pose_error(made, crop, found.transform)
            gain = 0.0 if found.pixels is None else psnr(found.pixels, truth, mask) - psnr(view, truth, mask)
            yield CompositeResult(number, made.geometry, made.damage, made.kind, given, found, error, gain, seconds)


def share(values: Iterable[bool]) -> str:
    """A share with its 95 % Wilson interval."""
    known = [bool(v) for v in values]
    n = len(known)
    if not n:
        return "-"
    p, z = sum(known) / n, 1.96
    middle, half = (
        (p + z * z / 2 / n) / (1 + z * z / n),
        z * np.sqrt(p * (1 - p) / n + z * z / 4 / n / n) / (1 + z * z / n),
    )
    return f"{sum(known)} of {n}, {p:.0%} ({max(0.0, middle - half):.0%} to {middle + half:.0%})"


def print_composites(rows: list[CompositeResult]) -> None:
    right = [r for r in rows if r.given == "right"]
    print("\n| surface, damage | pose within 1.5 px | within 3 px | fits | cannot tell | gain where it fits |")
    print("| --- | --- | --- | --- | --- | --- |")
    for geometry in ("plane", "cylinder", "fold"):
        for damage in (*DAMAGES, None):
            part = [r for r in right if r.geometry == geometry and damage in (r.damage, None)]
            if not part or (damage is not None and geometry != "plane"):
                continue
            verdicts = [r.found.agreement.verdict for r in part]
            gains = [r.gain_db for r in part if r.found.agreement.verdict == "fits"]
            gain = f"{np.mean(gains):+.1f} dB" if gains else "-"
            within = [share(r.error_px <= limit for r in part) for limit in (1.5, 3.0)]
            said = [f"{verdicts.count(v)} of {len(part)}" for v in ("fits", "cannot tell")]
            print(f"| {geometry}, {damage or 'all'} | {within[0]} | {within[1]} | {said[0]} | {said[1]} | {gain} |")
    print("\n| wrongly accepted | " + " | ".join(DAMAGES) + " | all |\n|" + " --- |" * (len(DAMAGES) + 2))
    for given in ("letter", "text", "wrong"):
        part = [r for r in rows if r.given == given]
        cells = [
            share(r.found.agreement.verdict == "fits" for r in part if d in (r.damage, None)) for d in (*DAMAGES, None)
        ]
        print(f"| {given} | " + " | ".join(cells) + " |")
    print_seconds([r.seconds for r in rows])


def print_seconds(seconds: list[float]) -> None:
    low, high = np.quantile(seconds, [0.5, 0.95])
    print(f"\nCPU seconds per region: median {low:.2f}, 95 % below {high:.2f}, at most {max(seconds):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    drawn = commands.add_parser("composites")
    drawn.add_argument("--side", choices=("train", "heldout"), default="heldout")
    drawn.add_argument("--first", type=int, default=0)
    drawn.add_argument("--count", type=int, default=60)
    drawn.add_argument("--list", action="store_true", help="a line for each reference as well")
    mini = commands.add_parser("mini")
    mini.add_argument("cases", type=Path, help="folder of `refine-ops eval build-cases mini`")
    mini.add_argument("--tiny", action="store_true", help="also what the bundled model makes of each reference")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.what == "mini":
        from tests.bench.register_mini import measure_mini

        measure_mini(arguments.cases, tiny=arguments.tiny)
        return
    rows = []
    for row in composites(arguments.side, range(arguments.first, arguments.first + arguments.count)):
        rows.append(row)
        if arguments.list:
            a = row.found.agreement
            said = f"{a.verdict}: {a.reason}; pose {row.error_px:.1f} px, {row.gain_db:+.1f} dB, {row.seconds:.2f} s"
            print(row.number, row.kind, row.geometry, row.damage, row.given, said, flush=True)
    print_composites(rows)


if __name__ == "__main__":
    main()
