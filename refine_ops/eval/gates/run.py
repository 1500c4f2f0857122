"""One calibration: cases made or opened, the model run on them, a gate fitted, and its card."""

import json
import logging

from refine_ops import storage
from refine_ops.errors import JobError
from refine_ops.eval.cases.build import build_cases
from refine_ops.eval.cases.case_set import CaseSet, EvalInput, load_cases
from refine_ops.eval.cases.rendered import write_rendered
from refine_ops.eval.config import BuildCasesConfig
from refine_ops.eval.gates.card import card_markdown, card_plot
from refine_ops.eval.gates.collect import MeasuredResult, collect, open_distance
from refine_ops.eval.gates.config import CalibrateConfig
from refine_ops.eval.gates.reviews import reviewed_results
from refine_ops.judge.calibrate import Calibration, Promise, calibrate
from refine_ops.judge.gate import NAME
from refine_ops.model.presets import TRANSFER
from refine_ops.model.pretrained import pick_device
from refine_ops.progress import OnProgress, no_progress

logger = logging.getLogger(__name__)


def run_calibration(config: CalibrateConfig, on_progress: OnProgress = no_progress) -> Calibration:
    """Fit a gate for the model in `config`; what an earlier start at `config.out` judged is not judged again.

    Writes card.md and plot.svg, and gate.json only where the promise can be made: else nothing is changed.

    Raises:
        JobError: neither cases nor reviews, or nothing to tell apart in them.
    """
    out = storage.resolve(config.out)
    judged: list[MeasuredResult] = []
    about = []
    if config.cases is not None:
        cases = _open_cases(config, out)
        judged = collect(
            cases,
            _in_turn(cases, config.per_case),
            config.refine,
            pick_device(wanted="auto", setting="device"),
            open_distance(config.weights, config.allow_hub),
            out,
            lessons=config.lessons,
            on_progress=on_progress,
        )
        about.append(f"{len({j.case for j in judged})} cases of {config.cases}")
    results = [j.result for j in judged if not j.kind]
    if config.reviews:
        reviewed = [r for run in config.reviews for r in reviewed_results(run)]
        about.append(f"{len(reviewed)} reviewed items")
        results += reviewed
    if not results:
        raise JobError("nothing to calibrate on: name a case set, or runs with review decisions")
    name = config.name or "+".join((config.refine.model.model, *config.refine.model.adapters))
    promise = Promise(config.max_harm, config.confidence)
    made = calibrate(results, name, promise, [j.result for j in judged if j.kind], ", ".join(about))
    storage.write(storage.join(out, "card.md"), card_markdown(made, judged, promise).encode())
    storage.write(storage.join(out, "plot.svg"), card_plot(made).encode())
    if made.gate is not None:
        storage.write(storage.join(out, NAME), json.dumps(made.file(), indent=1, sort_keys=True).encode() + b"\n")
    return made


def _open_cases(config: CalibrateConfig, out: str) -> CaseSet:
    if config.cases != "rendered":
        return load_cases(storage.resolve(str(config.cases)))
    folder = storage.join(out, "cases")
    if not storage.exists(storage.join(folder, "cases.parquet")):
        logger.info("rendering %d cases at %s", config.rendered, folder)
        # A transfer makes nothing of a case without a reference.
        referenced = config.refine.model.model == TRANSFER
        write_rendered(storage.join(out, "clean"), config.rendered, config.seed, config.photos, referenced=referenced)
        # Many cases with one input of each family: cases are what a promise counts.
        build_cases(BuildCasesConfig(annotations=storage.join(out, "clean"), out=folder, scribbles=2, seeds=2, keep=1))
    return load_cases(folder)


def _in_turn(cases: CaseSet, per_case: int) -> list[EvalInput]:
    """So many inputs of each case, the first one another each time."""
    found = []
    for number, items in enumerate(cases.by_case().values()):
        turned = [items[(number + k) % len(items)] for k in range(min(per_case, len(items)))]
        found += sorted(turned, key=items.index)
    return found
