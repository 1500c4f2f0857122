"""One evaluation: open the cases, run and measure every method, write results, tables and gallery."""

import logging
from dataclasses import dataclass

import torch

from refine_ops import storage
from refine_ops.errors import JobError
from refine_ops.eval.cases.build import build_cases
from refine_ops.eval.cases.case_set import CaseSet, EvalInput, load_cases
from refine_ops.eval.config import BuildCasesConfig, ControlMethod, RefineEvalConfig, RefinerMethod
from refine_ops.eval.gallery import write_gallery
from refine_ops.eval.measure import MethodRun, measure_case
from refine_ops.eval.methods.open import open_method, promised
from refine_ops.eval.metrics.background import BackgroundMeter
from refine_ops.eval.metrics.drift import DriftMeter
from refine_ops.eval.metrics.features import feature_meters
from refine_ops.eval.metrics.fidelity import RegionMeter
from refine_ops.eval.metrics.metric import Meter
from refine_ops.eval.metrics.perceptual import perceptual_meters
from refine_ops.eval.metrics.text import text_meter
from refine_ops.eval.metrics.vlm_grades import open_grader
from refine_ops.eval.results import Results, Score, save_results
from refine_ops.eval.tables.layout import ResultTable
from refine_ops.eval.tables.render import as_html, as_markdown
from refine_ops.eval.tables.tables import all_tables
from refine_ops.model.pretrained import pick_device
from refine_ops.progress import OnProgress, no_progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation gave; files are under `uri`."""

    uri: str
    results: Results
    tables: tuple[ResultTable, ...]

    @property
    def markdown(self) -> str:
        return as_markdown(self.tables)


def evaluate(config: RefineEvalConfig, on_progress: OnProgress = no_progress) -> Evaluation:
    """Evaluate all methods on all cases; what a previous run left at `config.out` is not computed again.

    Writes results.parquet, tables.md, tables.html, gallery/ and config.json at `config.out`.

    Args:
        on_progress: called after every case of every method, with how many of them are done and will be.

    Raises:
        JobError: no case set, a model that cannot be opened, an endpoint that stays down.
    """
    out = storage.resolve(config.out)
    cases = open_cases(config)
    chosen = _chosen(cases, config)
    device = pick_device(wanted=config.metrics.device, setting="metrics.device")
    meters = open_meters(config, device)
    scores: list[Score] = []
    runs: list[MethodRun] = []
    for method_config in config.all_methods:
        method = open_method(method_config, device, config.limits)
        ablation = isinstance(method_config, RefinerMethod) and method_config.ablation
        run = MethodRun(method_config.name, method.digest, ablation, out, promised(method_config))
        runs.append(run)
        for done, (case_id, items) in enumerate(chosen.items(), 1):
            scores += measure_case(run, method, meters, cases, items, config.limits)
            logger.info("%s: case %d of %d (%s)", run.name, done, len(chosen), case_id)
            on_progress((len(runs) - 1) * len(chosen) + done, len(config.all_methods) * len(chosen))
    results = Results(tuple(scores), cases.digest)
    metrics = [m for meter in meters for m in meter.metrics]
    tables = all_tables(
        results, metrics, compared=_compared(config), confidence=config.confidence, resamples=config.resamples
    )
    save_results(out, results)
    storage.write(storage.join(out, "tables.md"), as_markdown(tables).encode())
    storage.write(storage.join(out, "tables.html"), as_html(tables).encode())
    storage.write(storage.join(out, "config.json"), config.model_dump_json(indent=1).encode())
    write_gallery(out, cases, [i for items in chosen.values() for i in items], runs, results, metrics, config)
    return Evaluation(out, results, tuple(tables))


def _chosen(cases: CaseSet, config: RefineEvalConfig) -> dict[str, list[EvalInput]]:
    """The cases of the setting asked for, `limit` of them."""
    fit = {k: v for k, v in cases.by_case().items() if config.setting in ("both", v[0].setting)}
    if not fit:
        raise JobError(f"case set {cases.uri} has no case of setting {config.setting!r}")
    return dict(list(fit.items())[: config.limit])


def _compared(config: RefineEvalConfig) -> set[str]:
    """Methods worth a test: not the controls, whose rank is known, but the untouched input, which is to be beaten."""
    return {m.name for m in config.all_methods if not isinstance(m, ControlMethod) or m.control == "identity"}


def open_cases(config: RefineEvalConfig) -> CaseSet:
    """The case set; RefineEval-mini is built under OUT/cases the first time."""
    if config.cases != "mini":
        return load_cases(storage.resolve(config.cases))
    folder = storage.join(storage.resolve(config.out), "cases")
    if not storage.exists(storage.join(folder, "cases.parquet")):
        logger.info("building RefineEval-mini at %s", folder)
        build_cases(BuildCasesConfig(out=folder))
    return load_cases(folder)


def open_meters(config: RefineEvalConfig, device: torch.device) -> list[Meter]:
    """All metrics that were asked for; those without weights are there as missing."""
    settings = config.metrics
    meters: list[Meter] = [
        RegionMeter(),
        *perceptual_meters(settings.weights, settings.allow_hub, device),
        *feature_meters(settings.dino, settings.clip, settings.allow_hub, device),
        BackgroundMeter(),
        DriftMeter(),
    ]
    if settings.text:
        meters.append(text_meter())
    if config.grader is not None:
        meters.append(open_grader(config.grader))
    return meters
