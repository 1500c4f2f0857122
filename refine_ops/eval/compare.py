"""Is B worse than A? The verdict that CI and the retraining gate act on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from refine_ops.errors import EXIT_BAD_INPUT, EXIT_OK, JobError
from refine_ops.eval.metrics.background import METRICS
from refine_ops.eval.metrics.features import CLIP, DINO
from refine_ops.eval.metrics.fidelity import MASK_PSNR, MSE, PSNR, SSIM
from refine_ops.eval.metrics.metric import Metric
from refine_ops.eval.metrics.perceptual import LPIPS_ALEX, LPIPS_BG, LPIPS_VGG, VGG
from refine_ops.eval.metrics.text import TEXT
from refine_ops.eval.metrics.vlm_grades import DIMENSIONS
from refine_ops.eval.results import Results, load_results, merged, paired
from refine_ops.eval.stats import PairedResult, holm, paired_comparison
from refine_ops.eval.tables.layout import Row, Table
from refine_ops.eval.tables.render import as_markdown

KNOWN: Final = {
    m.name: m
    for m in (MSE, PSNR, SSIM, MASK_PSNR, LPIPS_ALEX, LPIPS_BG, LPIPS_VGG, VGG, DINO, CLIP, TEXT, *DIMENSIONS, *METRICS)
}
DEFAULT_METRICS: Final = ("lpips_alex", "mse", "ssim")
STRICT: Final = "changed_outside_px"


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric of the comparison; `p_value` is Holm-adjusted over the metrics compared."""

    metric: Metric
    result: PairedResult
    p_value: float

    @property
    def gain(self) -> float:
        """How much better B is: positive is better whichever way the metric goes."""
        return -self.result.difference if self.metric.better == "lower" else self.result.difference

    def worse(self, alpha: float) -> bool:
        return self.p_value < alpha and self.gain < 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A. `leaks` counts inputs whose background B changes and A does not."""

    a: str
    b: str
    findings: tuple[Finding, ...]
    leaks: int
    alpha: float

    @property
    def worse(self) -> bool:
        """B is significantly worse in a metric, or changes a background that A kept."""
        return self.leaks > 0 or any(f.worse(self.alpha) for f in self.findings)

    @property
    def exit_code(self) -> int:
        return EXIT_BAD_INPUT if self.worse else EXIT_OK

    @property
    def markdown(self) -> str:
        rows = []
        for f in self.findings:
            r = f.result
            verdict = "worse" if f.worse(self.alpha) else "better" if f.p_value < self.alpha else "no difference shown"
            interval = f"{r.difference:+.4f} [{r.low:+.4f}, {r.high:+.4f}]"
            size = f"{r.minimum_detectable:.4f}"
            cells = (f.metric.label + f.metric.arrow, interval, f"{f.p_value:.4f}", size, str(r.n_cases), verdict)
            rows.append(Row(cells))
        header = ("Metric", "B - A", "p (Holm)", "least detectable", "cases", "B is")
        note = f"Inputs whose background B changes and A does not: {self.leaks}."
        verdict = "B is worse" if self.worse else "B is not shown to be worse"
        return as_markdown([Table(f"A: {self.a}; B: {self.b}. {verdict}.", header, tuple(rows), (note,))])


def compare(
    a: str,
    b: str,
    *,
    method_a: str | None = None,
    method_b: str | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    alpha: float = 0.05,
) -> Comparison:
    """Compare a method of the results at `b` with one of the results at `a`, input by input.

    Args:
        a, b: Results folders (or `results.parquet` files); they may be the same.
        method_a, method_b: Names; by default each side's first method.
        metrics: Those that decide; one that either side has no value of is left out, but not all of them.

    Raises:
        JobError: other case sets, unknown methods or metrics, fewer than two cases in common.
    """
    unknown = [m for m in metrics if m not in KNOWN]
    if unknown:
        raise JobError(f"unknown metrics {', '.join(unknown)}; known: {', '.join(KNOWN)}")
    first, second = load_results(a), load_results(b)
    sides = _named(first, method_a, "A"), _named(second, method_b, "B")
    both = merged([sides[0], sides[1]])
    found = []
    for name in metrics:
        _check_definitions(both, name)
        x, y, cases = paired(both, "A", "B", name)
        if len(x):
            found.append((KNOWN[name], paired_comparison(x, y, cases)))
    if not found:
        raise JobError(f"no input has a value of {', '.join(metrics)} on both sides; evaluate both on the same cases")
    adjusted = holm([r.p_value for _, r in found]).tolist()
    findings = tuple(Finding(m, r, p) for (m, r), p in zip(found, adjusted, strict=True))
    x, y, _ = paired(both, "A", "B", STRICT)
    labels = (f"{method_a or first.methods[0]} ({a})", f"{method_b or second.methods[0]} ({b})")
    return Comparison(*labels, findings, int(((y > 0) & (x == 0)).sum()), alpha)


def _named(results: Results, method: str | None, name: str) -> Results:
    """One method's scores under the name of its side."""
    wanted = method or results.methods[0]
    if wanted not in results.methods:
        raise JobError(f"no method {wanted!r} in side {name}; there are {', '.join(map(repr, results.methods))}")
    return Results(tuple(replace(s, method=name) for s in results.scores if s.method == wanted), results.cases_digest)


def _check_definitions(results: Results, metric: str) -> None:
    """Values of two definitions or models do not meet."""
    found = {(s.version, s.source) for s in results.scores if s.metric == metric and s.value is not None}
    if len(found) > 1:
        raise JobError(f"{metric} was measured in different ways: {sorted(found)}; evaluate both sides again")
