"""`report.json`: the verdict in one sentence and what stands behind it; everything the HTML's first screen shows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from refine_ops.report.alarms import Alarm
from refine_ops.report.config import Cost, Thresholds
from refine_ops.report.figures import FIGURES, FINDINGS, RUN_FIGURES, Figure, FindingCode, ItemMeasure
from refine_ops.report.nights import busy_s
from refine_ops.report.trend import ALL, TrendPoint

SCHEMA = "refine-ops/drift-report/1"
WORST = 10
_HEADLINE = ("strict_share", "dead_share", "raw_de00", "raw_shift_px", "seam_de", "change_levels", "items_per_s")


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What one run did. None is 'not measured' (a figure the run did not record) or, for cost, 'no price given'."""

    run: str
    items: int
    planned: int
    done: int
    dead: int
    retries: int
    items_per_s: float | None
    gpu_s: float | None
    cost_per_1000: float | None
    currency: str
    dead_by_reason: dict[str, int]

    @property
    def trend_figures(self) -> dict[str, float]:
        """Figures of the whole run that have a history."""
        per_item = self.gpu_s / self.done if self.gpu_s is not None and self.done else None
        found = {"items_per_s": self.items_per_s, "gpu_s_per_item": per_item}
        return {name: value for name, value in found.items() if value is not None}


def run_figures(run: str, items: Sequence[ItemMeasure], planned: int, cost: Cost) -> RunFigures:
    """Throughput is finished items over the time between the first and the last of each night."""
    done = [i for i in items if i.status == "done"]
    span_s, intervals = busy_s(items)
    device = [i.gpu_s for i in done if i.gpu_s is not None]
    gpu_s = float(sum(device)) if device else None
    priced = cost.gpu_hour is not None and gpu_s is not None and done
    return RunFigures(
        run=run,
        items=len(items),
        planned=planned,
        done=len(done),
        dead=len(items) - len(done),
        retries=sum(i.attempts - 1 for i in items),
        items_per_s=intervals / span_s if span_s > 0 else None,
        gpu_s=gpu_s,
        cost_per_1000=1000 * gpu_s / len(done) / 3600 * cost.gpu_hour if priced else None,  # type: ignore[operator]
        currency=cost.currency,
        dead_by_reason=dict(Counter(i.reason for i in items if i.status == "dead").most_common()),
    )


def summarise(
    title: str,
    created_at: str,
    items: Sequence[ItemMeasure],
    runs: Sequence[RunFigures],
    alarms: Sequence[Alarm],
    history: Sequence[TrendPoint],
    thresholds: Thresholds,
    trend_state: str,
) -> dict[str, Any]:
    """The content of `report.json`; `history` holds past points and this report's own, oldest first."""
    ordered = sorted(items, key=lambda i: (-i.severity, i.run, i.item_id))
    counts = Counter(code for item in items for code in {f.code for f in item.findings})
    return {
        "schema": SCHEMA,
        "title": title,
        "created_at": created_at,
        "items": len(items),
        "flagged": sum(bool(i.findings) for i in items),
        "verdict": _verdict(items, counts, alarms),
        "headline": [card for name in _HEADLINE if (card := _card(name, items, runs, history, thresholds))],
        "counts": {code: counts[code] for code in FINDINGS if counts[code]},
        "alarms": [asdict(alarm) for alarm in alarms],
        "trend_state": trend_state,
        "worst": [
            {"run": i.run, "id": i.item_id, "finding": i.findings[0].text} for i in ordered[:WORST] if i.findings
        ],
        "runs": [asdict(run) for run in runs],
        "metrics": [_metric_row(m, items, thresholds) for m in FIGURES],
        "thresholds": thresholds.model_dump(),
    }


def metric_limit(metric: str, thresholds: Thresholds) -> tuple[float | None, str]:
    """The threshold of a metric: the value above which it flags (None where it does not flag upwards), and in words."""
    t = thresholds
    above = {
        "changed_outside_px": (t.changed_outside_px, "px"),
        "raw_de00": (t.raw_de00, "ΔE00"),
        "raw_shift_px": (t.raw_shift_px, "px"),
        "raw_scale_pct": (t.raw_scale_pct, "%"),
        "seam_de": (t.seam_de, "ΔE76"),
        "change_de00": (t.overdone_de00, "ΔE00"),
    }
    if metric in above:
        limit, unit = above[metric]
        return float(limit), f"at most {limit:g} {unit}"
    below = {
        "change_levels": f"more than {t.untouched_levels:g} levels",
        "region_ssim": f"at least {t.overdone_ssim:g}",
    }
    return None, below.get(metric, "")


def _verdict(items: Sequence[ItemMeasure], counts: Counter[FindingCode], alarms: Sequence[Alarm]) -> dict[str, str]:
    compared = sum(i.status == "done" for i in items)
    broken = sum(any(FINDINGS[f.code].strict for f in i.findings) for i in items)
    flagged = sum(bool(i.findings) for i in items)
    unchanged = f"All {compared:,} compared items are strictly unchanged outside the allowed change"
    state: Literal["clean", "attention", "violated"]
    noted = [f"{counts[code]:,} {kind.label}" for code, kind in FINDINGS.items() if counts[code] and not kind.strict]
    if alarms:
        noted.append(f"{len(alarms)} trend alarm{'s' if len(alarms) > 1 else ''}")
    if broken:
        state = "violated"
        kinds = ", ".join(
            f"{kind.label}: {counts[code]:,}" for code, kind in FINDINGS.items() if kind.strict and counts[code]
        )
        text = f"{broken:,} of {len(items):,} items break the promise that nothing else changes ({kinds})."
    elif noted:
        state = "attention"
        text = f"{unchanged}; {flagged:,} want a look."
    else:
        state = "clean"
        text = f"{unchanged}, and nothing stands out."
    return {"state": state, "sentence": text + (f" Also: {'; '.join(noted)}." if noted else "")}


def _card(
    name: str,
    items: Sequence[ItemMeasure],
    runs: Sequence[RunFigures],
    history: Sequence[TrendPoint],
    thresholds: Thresholds,
) -> dict[str, Any] | None:
    metric = next(m for m in FIGURES + RUN_FIGURES if m.name == name)
    value = _value(metric, items, runs)
    past = [p.value for p in history if p.metric == name and p.slice == ALL][-30:]
    _, limit = metric_limit(name, thresholds)
    if value is None:
        text, unit = "not measured", ""
    elif metric.unit == "of items":
        text, unit = f"{100 * value:.2f}", "% of items"
    else:
        text, unit = f"{value:.{metric.digits}f}", metric.unit + (" (median)" if metric.group != "run" else "")
    return {
        "name": name,
        "label": metric.label,
        "kind": metric.kind,
        "text": text,
        "unit": unit,
        "value": value,
        "trend": past,
        "limit": limit,
        "meaning": metric.meaning,
    }


def _value(metric: Figure, items: Sequence[ItemMeasure], runs: Sequence[RunFigures]) -> float | None:
    if metric.name == "items_per_s":
        rates = [r.items_per_s for r in runs if r.items_per_s is not None]
        return rates[-1] if rates else None
    if metric.name == "strict_share":
        return sum(any(FINDINGS[f.code].strict for f in i.findings) for i in items) / max(1, len(items))
    if metric.name == "dead_share":
        return sum(i.status == "dead" for i in items) / max(1, len(items))
    values = [i.metrics[metric.name] for i in items if metric.name in i.metrics]
    return float(np.median(values)) if values else None


def _metric_row(metric: Figure, items: Sequence[ItemMeasure], thresholds: Thresholds) -> dict[str, Any]:
    values = np.array([i.metrics[metric.name] for i in items if metric.name in i.metrics])
    limit, text = metric_limit(metric.name, thresholds)
    row = {n: getattr(metric, n) for n in ("name", "label", "unit", "kind", "group", "worse", "digits", "meaning")}
    return row | {
        "measured": len(values),
        "median": float(np.median(values)) if len(values) else None,
        "p95": float(np.percentile(values, 95)) if len(values) else None,
        "limit": text,
        "limit_value": limit,
    }
