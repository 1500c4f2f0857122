"""Tables 1 to 3 in the paper's layout, published rows beside ours."""

from collections.abc import Collection, Sequence
from typing import Final

from refine_ops.eval.metrics.metric import Metric
from refine_ops.eval.metrics.vlm_grades import DIMENSIONS
from refine_ops.eval.results import Results
from refine_ops.eval.tables.findings import category_table, missing_table, paired_table, strict_table
from refine_ops.eval.tables.layout import ResultRow, ResultTable, Style
from refine_ops.eval.tables.paper_figures import PAPER_NOTE, TABLE_1, TABLE_1_COLUMNS

ABLATION_COLUMNS: Final = ("mse", "psnr_mask", "lpips_alex", "dino", "clip", "ssim", "seam", "ssim_bg")
_NOT_AVAILABLE: Final = "not available"


def all_tables(
    results: Results,
    metrics: Sequence[Metric],
    *,
    compared: Collection[str],
    confidence: float = 0.95,
    resamples: int = 4000,
) -> list[ResultTable]:
    """Every table that the results allow; `compared` names the methods that the first one is compared with."""
    style = Style({m.name: m for m in metrics}, confidence, resamples)
    reference = results.where(lambda s: s.setting == "reference" and not s.ablation)
    free = results.where(lambda s: s.setting == "free" and not s.ablation)
    made = [
        _table_1(reference, style),
        _against_truth(free, style),
        _table_2(free, style),
        _table_3(results, style),
        _text(results, style),
        strict_table(results, style),
        paired_table(results, compared, style),
        category_table(results, style),
        missing_table(results, style),
    ]
    return [t for t in made if t is not None]


def _table_1(results: Results, style: Style) -> ResultTable | None:
    if not results.scores:
        return None
    rows = [ResultRow((m, *(style.cell(results, m, c) for c in TABLE_1_COLUMNS))) for m in results.methods]
    rows += [ResultRow((f"{name} *", *values), "paper") for name, values in TABLE_1.items()]
    header = ("Method", *style.heads(TABLE_1_COLUMNS))
    return ResultTable("Table 1. Reference-based refinement", header, tuple(rows), (style.design(results), PAPER_NOTE))


def _against_truth(results: Results, style: Style) -> ResultTable | None:
    """The reference-free inputs have a ground truth here, so they are scored against it as well."""
    if not results.scores:
        return None
    rows = tuple(ResultRow((m, *(style.cell(results, m, c) for c in TABLE_1_COLUMNS))) for m in results.methods)
    note = "Not in the paper: reference-free refinement is open-ended, so a good repair may differ from the truth."
    header = ("Method", *style.heads(TABLE_1_COLUMNS))
    return ResultTable(
        "Reference-free refinement against the ground truth", header, rows, (style.design(results), note)
    )


def _table_2(results: Results, style: Style) -> ResultTable | None:
    if not results.scores:
        return None
    names = [d.name for d in DIMENSIONS]
    scored = names[0] in style.metrics
    labels = tuple(f"{d.label}↑" for d in DIMENSIONS)
    rows = [
        ResultRow((m, *(style.cell(results, m, n) if scored else "not scored" for n in names))) for m in results.methods
    ]
    if "grade_order" in style.metrics:
        labels += ("order effect↓",)
        rows = [ResultRow((*r.cells, style.cell(results, r.cells[0], "grade_order"))) for r in rows]
    rows.append(ResultRow(("published *", *[_NOT_AVAILABLE] * len(labels)), "paper"))
    notes = ["* The body of the paper's Table 2 is not in the text at hand."]
    if not scored:
        notes.insert(0, "No VLM was configured (`grader`).")
    else:
        notes.insert(
            0, f"Graded by {_sources(results, names[0])}. (n/N): inputs with a readable answer; no score is imputed."
        )
    return ResultTable("Table 2. Reference-free refinement, VLM grades", ("Method", *labels), tuple(rows), tuple(notes))


def _table_3(results: Results, style: Style) -> ResultTable | None:
    ablations = list(dict.fromkeys(s.method for s in results.scores if s.ablation))
    if not ablations:
        return None
    methods = [results.methods[0], *(a for a in ablations if a != results.methods[0])]
    rows = [ResultRow((m, *(style.cell(results, m, c) for c in ABLATION_COLUMNS))) for m in methods]
    rows.append(ResultRow(("published *", *[_NOT_AVAILABLE] * len(ABLATION_COLUMNS)), "paper"))
    notes = (style.design(results), "* The body of the paper's Table 3 is not in the text at hand.")
    return ResultTable(
        "Table 3. Ablations, both settings", ("Method", *style.heads(ABLATION_COLUMNS)), tuple(rows), notes
    )


def _text(results: Results, style: Style) -> ResultTable | None:
    if "text" not in style.metrics or not any(s.metric == "text" and s.value is not None for s in results.scores):
        return None
    with_text = {s.input_id for s in results.scores if s.metric == "text" and s.value is not None}
    own = results.where(lambda s: s.input_id in with_text)
    rows = tuple(ResultRow((m, style.cell(own, m, "text"), style.cell(own, m, "psnr_mask"))) for m in own.methods)
    return ResultTable("Text accuracy (OCR) on cases with text", ("Method", *style.heads(("text", "psnr_mask"))), rows)


def _sources(results: Results, metric: str) -> str:
    return ", ".join(dict.fromkeys(s.source for s in results.scores if s.metric == metric and s.source)) or "none"
