"""What the paper's tables lack: strict background, paired comparisons, categories, and what is missing."""

from collections.abc import Callable, Collection
from typing import Final

from refine_ops.eval.results import NOT_APPLICABLE, Results, Score, paired
from refine_ops.eval.stats import holm, paired_comparison
from refine_ops.eval.tables.layout import DIGITS, ResultRow, ResultTable, Style

COMPARED: Final = ("lpips_alex", "mse", "psnr_mask", "ssim", "dino", "clip", "seam", "text")


def strict_table(results: Results, style: Style) -> ResultTable | None:
    rows = []
    for method in results.methods:
        changed = [v for _, v in results.values(method, "changed_outside_px").values()]
        worst = [v for _, v in results.values(method, "max_diff_outside").values()]
        if not changed:
            continue
        dirty = sum(v > 0 for v in changed)
        means = (style.cell(results, method, n) for n in ("ssim_strict", "ssim_bg", "seam"))
        rows.append(
            ResultRow((method, f"{dirty} of {len(changed)}", f"{max(changed):.0f}", f"{max(worst):.0f}", *means))
        )
    header = ("Method", "inputs with a change", "changed px, worst", "difference, worst")
    note = (
        "Outside the allowed change: the mask grown by the blend's reach (8 px), in JPEG the MCUs it touches. A strict "
        "method has 0 everywhere."
    )
    return ResultTable(
        "Strict background", (*header, *style.heads(("ssim_strict", "ssim_bg", "seam"))), tuple(rows), (note,)
    )


def paired_table(results: Results, compared: Collection[str], style: Style) -> ResultTable | None:
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
        digits = DIGITS.get(metric, 3)
        interval = f"{result.difference:+.{digits}f} [{result.low:+.{digits}f}, {result.high:+.{digits}f}]"
        size = f"{result.minimum_detectable:.{digits}f}"
        rows.append(ResultRow((other, *style.heads((metric,)), interval, f"{p:.4f}", size, f"{result.n_cases}")))
    header = ("Method", "Metric", f"difference to '{first}'", "p (Holm)", "least detectable", "cases")
    note = f"Method minus '{first}', same inputs; sign-flip test by case; least difference found with 80 % power."
    return ResultTable("Paired comparison", header, tuple(rows), (note,))


def category_table(results: Results, style: Style) -> ResultTable | None:
    names = tuple(n for n in ("psnr_mask", "lpips_alex", "seam") if n in style.metrics)
    kinds = sorted({(s.setting, s.category) for s in results.scores})
    rows = []
    for setting, category in kinds:
        own = results.where(_is(setting, category))
        rows += [ResultRow((setting, category, m, *(style.cell(own, m, n) for n in names))) for m in own.methods]
    header = ("Setting", "Category", "Method", *style.heads(names))
    return ResultTable("By category", header, tuple(rows)) if rows else None


def _is(setting: str, category: str) -> Callable[[Score], bool]:
    return lambda s: (s.setting, s.category) == (setting, category)


def missing_table(results: Results, style: Style) -> ResultTable | None:
    """Metrics without a single value though they apply somewhere, and inputs that failed."""
    rows = []
    for name, metric in style.metrics.items():
        if not any(s.metric == name and s.value is not None for s in results.scores):
            notes = {note for m in results.methods for note in results.notes(m, name)}
            if notes != {NOT_APPLICABLE}:
                rows.append(ResultRow(("all", metric.label, "; ".join(sorted(notes))[:300])))
    for method in results.methods:
        rows += [ResultRow((method, input_id, note[:300])) for input_id, note in results.failures(method).items()]
    return ResultTable("Missing", ("Method", "Metric or input", "Why"), tuple(rows)) if rows else None
