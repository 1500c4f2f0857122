"""B against A, metric by metric, and CI's question of it: is B shown to be worse?

Retraining asks the same gains the other question (`decision`: is B shown to be no worse?). What cannot be told passes
here and stops there, and only here do several metrics need Holm: one false alarm fails CI, while a promotion needs
every criterion. So the two keep rules of their own, over one comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from refine_ops.errors import EXIT_BAD_INPUT, EXIT_OK, JobError
from refine_ops.eval.metrics.background import METRICS
from refine_ops.eval.metrics.drift import RAW_DE00, RAW_SHIFT
from refine_ops.eval.metrics.features import CLIP, DINO
from refine_ops.eval.metrics.fidelity import MASK_PSNR, MSE, PSNR, SSIM
from refine_ops.eval.metrics.metric import Metric, current_name
from refine_ops.eval.metrics.perceptual import LPIPS_ALEX, LPIPS_BG, LPIPS_VGG, VGG
from refine_ops.eval.metrics.text import TEXT
from refine_ops.eval.metrics.vlm_grades import DIMENSIONS
from refine_ops.eval.results import Results, load_results, merged, paired
from refine_ops.eval.stats import PairedResult, holm, paired_comparison
from refine_ops.eval.tables.layout import ResultRow, ResultTable
from refine_ops.eval.tables.render import as_markdown

_REGION: Final = (MSE, PSNR, SSIM, MASK_PSNR, LPIPS_ALEX, LPIPS_VGG, VGG, DINO, CLIP, TEXT)
KNOWN: Final = {m.name: m for m in (*_REGION, LPIPS_BG, *METRICS, RAW_DE00, RAW_SHIFT, *DIMENSIONS)}
DEFAULT_METRICS: Final = ("lpips_alex", "mse", "ssim")
STRICT: Final = "changed_outside_px"


@dataclass(frozen=True, slots=True)
class Gain:
    """How much better B is than A in one metric: positive is better whichever way the metric goes."""

    metric: Metric
    result: PairedResult

    @property
    def mean(self) -> float:
        return self._sign * self.result.difference

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean."""
        low, high = sorted((self._sign * self.result.low, self._sign * self.result.high))
        return low, high

    @property
    def _sign(self) -> int:
        return -1 if self.metric.better == "lower" else 1


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric of a comparison; `p_value` is Holm-adjusted over the metrics compared."""

    gain: Gain
    p_value: float

    def worse(self, alpha: float) -> bool:
        return self.p_value < alpha and self.gain.mean < 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A. `leaks` counts inputs whose background B changes and A does not."""

    a: str
    b: str
    metrics: tuple[MetricComparison, ...]
    leaks: int
    alpha: float

    @property
    def worse(self) -> bool:
        """B is significantly worse in a metric, or changes a background that A kept."""
        return self.leaks > 0 or any(f.worse(self.alpha) for f in self.metrics)

    @property
    def exit_code(self) -> int:
        return EXIT_BAD_INPUT if self.worse else EXIT_OK

    @property
    def markdown(self) -> str:
        rows = []
        for f in self.metrics:
            metric, r = f.gain.metric, f.gain.result
            verdict = "worse" if f.worse(self.alpha) else "better" if f.p_value < self.alpha else "no difference shown"
            interval = f"{r.difference:+.4f} [{r.low:+.4f}, {r.high:+.4f}]"
            size = f"{r.minimum_detectable:.4f}"
            rows.append(
                ResultRow((metric.label + metric.arrow, interval, f"{f.p_value:.4f}", size, str(r.n_cases), verdict))
            )
        header = ("Metric", "B - A", "p (Holm)", "least detectable", "cases", "B is")
        note = f"Inputs whose background B changes and A does not: {self.leaks}."
        verdict = "B is worse" if self.worse else "B is not shown to be worse"
        return as_markdown([ResultTable(f"A: {self.a}; B: {self.b}. {verdict}.", header, tuple(rows), (note,))])


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
    known = [known_metric(m) for m in metrics]
    first, second = load_results(a), load_results(b)
    both = merged([_named(first, method_a, "A"), _named(second, method_b, "B")])
    gains = [gain for metric in known if (gain := paired_gain(both, "A", "B", metric)) is not None]
    if not gains:
        raise JobError(f"no input has a value of {', '.join(metrics)} on both sides; evaluate both on the same cases")
    adjusted = holm([g.result.p_value for g in gains]).tolist()
    compared = tuple(MetricComparison(g, p) for g, p in zip(gains, adjusted, strict=True))
    x, y, _ = paired(both, "A", "B", STRICT)
    labels = (f"{method_a or first.methods[0]} ({a})", f"{method_b or second.methods[0]} ({b})")
    return Comparison(*labels, compared, int(((y > 0) & (x == 0)).sum()), alpha)


def known_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        JobError: there is none.
    """
    if (now := current_name(name)) not in KNOWN:
        raise JobError(f"no metric {name!r} in refine-eval; it has {', '.join(KNOWN)}")
    return KNOWN[now]


def paired_gain(results: Results, a: str, b: str, metric: Metric) -> Gain | None:
    """Of method `b` over `a`; None where no input has a value on both sides.

    Raises:
        JobError: the values have different definitions, or fewer than two cases have one.
    """
    _check_definitions(results, metric.name)
    x, y, cases = paired(results, a, b, metric.name)
    return Gain(metric, paired_comparison(x, y, cases)) if len(x) else None


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
