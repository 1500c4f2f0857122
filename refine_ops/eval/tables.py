"""Tables 1 to 3 in the paper's layout, and what it lacks: strict background, paired comparisons, categories."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from refine_ops.eval.judge import DIMENSIONS
from refine_ops.eval.metrics import Metric
from refine_ops.eval.published import PUBLISHED_NOTE, TABLE_1, TABLE_1_COLUMNS
from refine_ops.eval.results import NOT_APPLICABLE, Results, Score, paired
from refine_ops.eval.stats import cluster_interval, holm, paired_comparison

ABLATION_COLUMNS: Final = ("mse", "psnr_mask", "lpips_alex", "dino", "clip", "ssim", "seam", "ssim_bg")
COMPARED: Final = ("lpips_alex", "mse", "psnr_mask", "ssim", "dino", "clip", "seam", "text")
_DIGITS: Final = {"psnr": 2, "psnr_mask": 2, "ssim_bg": 4, "ssim_strict": 4, "mse": 4, "mse_bg": 5, "changed_px": 1,
                  "max_diff": 1, "seam": 1}  # fmt: skip
_NOT_AVAILABLE: Final = "not available"


@dataclass(frozen=True, slots=True)
class Row:
    """Cells of one line; published ones are set apart."""

    cells: tuple[str, ...]
    kind: Literal["measured", "published"] = "measured"


@dataclass(frozen=True, slots=True)
class Table:
    """`notes` stand below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Style:
    """How means are formed and metrics are called."""

    metrics: dict[str, Metric]
    confidence: float
    resamples: int

    def heads(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(f"{self.metrics[n].label}{self.metrics[n].arrow}" if n in self.metrics else n for n in names)

    def cell(self, results: Results, method: str, metric: str) -> str:
        """Mean, interval, and how many inputs it rests on where some have no score; 'missing' where none has."""
        values = results.values(method, metric)
        if not values:
            return "missing"
        cases, numbers = zip(*values.values(), strict=True)
        found = cluster_interval(numbers, cases, confidence=self.confidence, resamples=self.resamples)
        digits = _DIGITS.get(metric, 3)
        text = f"{found.mean:.{digits}f}"
        if np.isfinite(found.low):
            text += f" [{found.low:.{digits}f}, {found.high:.{digits}f}]"
        total = sum(s.method == method and s.metric == metric for s in results.scores)
        return text if len(values) == total else f"{text} ({len(values)}/{total})"


def all_tables(
    results: Results,
    metrics: Sequence[Metric],
    *,
    compared: Collection[str],
    confidence: float = 0.95,
    resamples: int = 4000,
) -> list[Table]:
    """Every table that the results allow; `compared` names the methods that the first one is compared with."""
    style = _Style({m.name: m for m in metrics}, confidence, resamples)
    reference = results.where(lambda s: s.setting == "reference" and not s.ablation)
    free = results.where(lambda s: s.setting == "free" and not s.ablation)
    made = [
        _table_1(reference, style),
        _against_truth(free, style),
        _table_2(free, style),
        _table_3(results, style),
        _text(results, style),
        _strict(results, style),
        _paired(results, compared, style),
        _categories(results, style),
        _missing(results, style),
    ]
    return [t for t in made if t is not None]


def _table_1(results: Results, style: _Style) -> Table | None:
    if not results.scores:
        return None
    rows = [Row((m, *(style.cell(results, m, c) for c in TABLE_1_COLUMNS))) for m in results.methods]
    rows += [Row((f"{name} *", *values), "published") for name, values in TABLE_1.items()]
    header = ("Method", *style.heads(TABLE_1_COLUMNS))
    return Table("Table 1. Reference-based refinement", header, tuple(rows), (_design(results, style), PUBLISHED_NOTE))


def _against_truth(results: Results, style: _Style) -> Table | None:
    """The reference-free inputs have a ground truth here, so they are scored against it as well."""
    if not results.scores:
        return None
    rows = tuple(Row((m, *(style.cell(results, m, c) for c in TABLE_1_COLUMNS))) for m in results.methods)
    note = "Not in the paper: reference-free refinement is open-ended, so a good repair may differ from the truth."
    header = ("Method", *style.heads(TABLE_1_COLUMNS))
    return Table("Reference-free refinement against the ground truth", header, rows, (_design(results, style), note))


def _table_2(results: Results, style: _Style) -> Table | None:
    if not results.scores:
        return None
    names = [d.name for d in DIMENSIONS]
    scored = names[0] in style.metrics
    labels = tuple(f"{d.label}↑" for d in DIMENSIONS)
    rows = [Row((m, *(style.cell(results, m, n) if scored else "not scored" for n in names))) for m in results.methods]
    if "judge_order" in style.metrics:
        labels += ("order effect↓",)
        rows = [Row((*r.cells, style.cell(results, r.cells[0], "judge_order"))) for r in rows]
    rows.append(Row(("published *", *[_NOT_AVAILABLE] * len(labels)), "published"))
    notes = ["* The body of the paper's Table 2 is not in the text at hand."]
    if not scored:
        notes.insert(0, "No judge was configured (`judge`).")
    else:
        notes.insert(
            0, f"Judge: {_sources(results, names[0])}. (n/N): inputs with a readable answer; no score is imputed."
        )
    return Table("Table 2. Reference-free refinement, VLM judge", ("Method", *labels), tuple(rows), tuple(notes))


def _table_3(results: Results, style: _Style) -> Table | None:
    ablations = list(dict.fromkeys(s.method for s in results.scores if s.ablation))
    if not ablations:
        return None
    methods = [results.methods[0], *(a for a in ablations if a != results.methods[0])]
    rows = [Row((m, *(style.cell(results, m, c) for c in ABLATION_COLUMNS))) for m in methods]
    rows.append(Row(("published *", *[_NOT_AVAILABLE] * len(ABLATION_COLUMNS)), "published"))
    notes = (_design(results, style), "* The body of the paper's Table 3 is not in the text at hand.")
    return Table("Table 3. Ablations, both settings", ("Method", *style.heads(ABLATION_COLUMNS)), tuple(rows), notes)


def _text(results: Results, style: _Style) -> Table | None:
    if "text" not in style.metrics or not any(s.metric == "text" and s.value is not None for s in results.scores):
        return None
    with_text = {s.input_id for s in results.scores if s.metric == "text" and s.value is not None}
    own = results.where(lambda s: s.input_id in with_text)
    rows = tuple(Row((m, style.cell(own, m, "text"), style.cell(own, m, "psnr_mask"))) for m in own.methods)
    return Table("Text accuracy (OCR) on cases with text", ("Method", *style.heads(("text", "psnr_mask"))), rows)


def _strict(results: Results, style: _Style) -> Table | None:
    rows = []
    for method in results.methods:
        changed = [v for _, v in results.values(method, "changed_px").values()]
        worst = [v for _, v in results.values(method, "max_diff").values()]
        if not changed:
            continue
        dirty = sum(v > 0 for v in changed)
        means = (style.cell(results, method, n) for n in ("ssim_strict", "ssim_bg", "seam"))
        rows.append(Row((method, f"{dirty} of {len(changed)}", f"{max(changed):.0f}", f"{max(worst):.0f}", *means)))
    header = ("Method", "inputs with a change", "changed px, worst", "difference, worst")
    note = (
        "Outside the allowed change: the mask grown by the blend's reach (8 px), in JPEG the MCUs it touches. A strict "
        "method has 0 everywhere."
    )
    return Table("Strict background", (*header, *style.heads(("ssim_strict", "ssim_bg", "seam"))), tuple(rows), (note,))


def _paired(results: Results, compared: Collection[str], style: _Style) -> Table | None:
    """The first method against others, metric by metric; p adjusted over the whole table."""
    first, found = results.methods[0], []
    for other in (m for m in results.methods[1:] if m in compared):
        for metric in (m for m in COMPARED if m in style.metrics):
            a, b, cases = paired(results, first, other, metric)
            if len(set(cases)) >= 2:
                options = {"confidence": style.confidence, "resamples": style.resamples}
                found.append((other, metric, paired_comparison(a, b, cases, **options)))  # type: ignore[arg-type]
    if not found:
        return None
    rows = []
    for (other, metric, result), p in zip(found, holm([r.p_value for *_, r in found]), strict=True):
        digits = _DIGITS.get(metric, 3)
        interval = f"{result.difference:+.{digits}f} [{result.low:+.{digits}f}, {result.high:+.{digits}f}]"
        size = f"{result.minimum_detectable:.{digits}f}"
        rows.append(Row((other, *style.heads((metric,)), interval, f"{p:.4f}", size, f"{result.n_cases}")))
    header = ("Method", "Metric", f"difference to '{first}'", "p (Holm)", "least detectable", "cases")
    note = f"Method minus '{first}', same inputs; sign-flip test by case; least difference found with 80 % power."
    return Table("Paired comparison", header, tuple(rows), (note,))


def _categories(results: Results, style: _Style) -> Table | None:
    names = tuple(n for n in ("psnr_mask", "lpips_alex", "seam") if n in style.metrics)
    kinds = sorted({(s.setting, s.category) for s in results.scores})
    rows = []
    for setting, category in kinds:
        own = results.where(_is(setting, category))
        rows += [Row((setting, category, m, *(style.cell(own, m, n) for n in names))) for m in own.methods]
    return Table("By category", ("Setting", "Category", "Method", *style.heads(names)), tuple(rows)) if rows else None


def _is(setting: str, category: str) -> Callable[[Score], bool]:
    return lambda s: (s.setting, s.category) == (setting, category)


def _missing(results: Results, style: _Style) -> Table | None:
    """Metrics without a single value though they apply somewhere, and inputs that failed."""
    rows = []
    for name, metric in style.metrics.items():
        if not any(s.metric == name and s.value is not None for s in results.scores):
            notes = {note for m in results.methods for note in results.notes(m, name)}
            if notes != {NOT_APPLICABLE}:
                rows.append(Row(("all", metric.label, "; ".join(sorted(notes))[:300])))
    for method in results.methods:
        failed = {s.input_id: s.note for s in results.scores if s.method == method and s.metric == "mse" and s.note}
        rows += [Row((method, input_id, note[:300])) for input_id, note in failed.items()]
    return Table("Missing", ("Method", "Metric or input", "Why"), tuple(rows)) if rows else None


def _design(results: Results, style: _Style) -> str:
    cases = {s.case_id for s in results.scores}
    inputs = {s.input_id for s in results.scores}
    return (
        f"{len(cases)} cases, {len(inputs)} inputs; mean of case means and {style.confidence:.0%} bootstrap-t "
        f"interval, clustered by case. Case set {results.cases_digest[:12]}."
    )


def _sources(results: Results, metric: str) -> str:
    return ", ".join(dict.fromkeys(s.source for s in results.scores if s.metric == metric and s.source)) or "none"
