"""RefineEval-mini's reference-based inputs: references as given, registered, transferred, and wrong ones."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from refine_ops.chain import Refinement
from refine_ops.config import ImageLimits, ModelSettings, RefineSettings
from refine_ops.errors import ItemError
from refine_ops.eval.cases.case_set import LoadedInput, load_cases, load_input
from refine_ops.eval.methods.refiner import as_item
from refine_ops.model.open import open_refiner
from refine_ops.opened import open_item
from refine_ops.records import Agreement, Refiner
from tests.bench.bench_register import print_seconds, psnr, share, timed


def measure_mini(folder: Path, *, tiny: bool) -> None:
    """Print the tables; PSNR over M against the damaged input."""
    torch.set_num_threads(1)
    cases = load_cases(str(folder))
    inputs = [load_input(cases, item, ImageLimits()) for item in cases.inputs if item.setting == "reference"]
    _print_accepted(inputs)
    ways: dict[str, ModelSettings] = {"transfer where it fits, else nothing": ModelSettings(model="transfer")}
    if tiny:
        ways["tiny, references as given"] = ModelSettings(reference="as_given")
        ways["tiny, references registered"] = ModelSettings(reference="registered")
        ways["tiny, transfer first"] = ModelSettings(first="transfer")
    print(
        "\n| what the model is given | mean | worse by 0.3 dB | better by 0.3 dB | where it fits |\n"
        + "| --- " * 5
        + "|"
    )
    for name, model in ways.items():
        settings = RefineSettings(model=model)
        refiner = open_refiner(model, torch.device("cpu"))
        gains = [_gain(loaded, settings, refiner) for loaded in inputs]
        all_of = np.array([gain for gain, _ in gains])
        fitting = [gain for gain, found in gains if found is not None and found.verdict == "fits"]
        where = f"{np.mean(fitting):+.2f} dB of {len(fitting)}" if fitting else "-"
        worse, better = np.mean(all_of < -0.3), np.mean(all_of > 0.3)
        print(f"| {name} | {all_of.mean():+.2f} dB | {worse:.0%} | {better:.0%} | {where} |", flush=True)


def _print_accepted(inputs: list[LoadedInput]) -> None:
    """How many right references are registered, and how many of another case's."""
    right, wrong, seconds = [], [], []
    for number, loaded in enumerate(inputs):
        shown = _shown(loaded, RefineSettings())
        other = inputs[(number + len(inputs) // 2 - 4) % len(inputs)]
        assert other.item.case_id != loaded.item.case_id
        for kind, reference in ((right, loaded.reference), (wrong, other.reference)):
            assert reference is not None
            found, took = timed(reference, *shown)
            kind.append(found.agreement)
            seconds.append(took)
        print(
            f"{loaded.item.input_id}: {right[-1].verdict}, {right[-1].reason}; another's: {wrong[-1].verdict}",
            flush=True,
        )
    for name, kind in (("registered", right), ("another case's", wrong)):
        print(f"{name}: fits {share(a.verdict == 'fits' for a in kind)}, ", end="")
        print(f"cannot tell {share(a.verdict == 'cannot tell' for a in kind)}")
    print_seconds(seconds)


def _shown(loaded: LoadedInput, settings: RefineSettings) -> tuple[np.ndarray, np.ndarray]:
    """View and mask as `tiny` is given them."""

    class Sizes:
        grid_px, focus_pixels, reference, tile_zoom = 8, 128 * 128, "as_given", 0.0

    item, files = as_item(loaded)
    given = Refinement(item, open_item(item, files, settings), settings, Sizes()).conditioning()  # type: ignore[arg-type]
    return given.image, given.mask


def _gain(loaded: LoadedInput, settings: RefineSettings, refiner: Refiner) -> tuple[float, Agreement | None]:
    """PSNR over M after over before; an item that is refused keeps its pixels."""
    item, files = as_item(loaded)
    refinement = Refinement(item, open_item(item, files, settings), settings, refiner)
    canvas: Any = refinement.canvas
    before = canvas.rgb.copy()
    given = refinement.conditioning()
    try:
        refinement.absorb(refiner.refine_prepared([refiner.prepare(given)])[0])
        while not refinement.complete:
            refinement.absorb(refiner.refine_prepared([refiner.prepare(refinement.conditioning())])[0])
    except ItemError:
        return 0.0, given.agreement
    mask, target = loaded.mask, loaded.target
    return psnr(canvas.rgb, target, mask) - psnr(before, target, mask), given.agreement
