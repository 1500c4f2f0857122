"""`report.json`: what became of the run in plain words, and the numbers behind them; all that the page shows first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from refine_ops.records import Status
from refine_ops.report.alarms import Alarm
from refine_ops.report.chosen import Chosen, choose, rank
from refine_ops.report.config import Cost, Thresholds
from refine_ops.report.figures import FIGURES, FINDINGS, RUN_FIGURES, Figure, FindingCode, ItemMeasure, RegionMeasure
from refine_ops.report.nights import busy_s
from refine_ops.report.trend import ALL, TrendPoint
from refine_ops.report.words import (
    agreement_numbers,
    change_in_words,
    inside_in_words,
    made_in_words,
    origin_in_words,
    outcome_in_words,
)

SCHEMA = "refine-ops/drift-report/2"
WORST = 10
_REASONS = 12
"""Reasons of dead and held items that are told, the most frequent first, each with one item as an example."""
_HEADLINE = (
    "strict_share",
    "dead_share",
    "held_share",
    "detail_lost",
    "raw_de00",
    "raw_shift_px",
    "seam_de",
    "change_levels",
    "items_per_s",
)


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What one run did. None is 'not measured' (a figure the run did not record) or, for cost, 'no price given'."""

    run: str
    items: int
    planned: int
    done: int
    held: int
    dead: int
    published: int | None
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


def run_figures(
    run: str, items: Sequence[ItemMeasure], planned: int, cost: Cost, published: int | None = None
) -> RunFigures:
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
        held=sum(i.status == "held" for i in items),
        dead=sum(i.status == "dead" for i in items),
        published=published,
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
    promise: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of `report.json`; `history` holds past points and this report's own, oldest first."""
    ordered = sorted(items, key=rank)
    counts = Counter(code for item in items for code in {f.code for f in item.findings})
    known = [run.published for run in runs if run.published is not None]
    published = sum(known) if known and len(known) == len(runs) else None
    status = Counter(i.status for i in items)
    return {
        "schema": SCHEMA,
        "title": title,
        "created_at": created_at,
        "items": len(items),
        "flagged": sum(bool(i.findings) for i in items),
        "verdict": _verdict(items, counts, alarms, published, thresholds),
        "outcome": {"published": published, **{name: status[name] for name in ("done", "held", "dead")}},
        "promise": list(promise),
        "made": made_in_words(items),
        "reasons": {name: _reasons(items, name) for name in ("held", "dead")},
        "shown": [_shown(chosen, thresholds) for chosen in choose(items)],
        "headline": [card for name in _HEADLINE if (card := _card(name, items, runs, history, thresholds))],
        "counts": {code: counts[code] for code in FINDINGS if counts[code]},
        "alarms": [asdict(alarm) for alarm in alarms],
        "trend_state": trend_state,
        "worst": [
            {
                "run": i.run,
                "id": i.item_id,
                "plain": FINDINGS[i.findings[0].code].plain,
                "finding": i.findings[0].text,
            }
            for i in ordered[:WORST]
            if i.findings
        ],
        "runs": [asdict(run) for run in runs],
        "metrics": [_metric_row(m, items, thresholds) for m in FIGURES],
        "thresholds": thresholds.model_dump(),
    }


def _reasons(items: Sequence[ItemMeasure], status: Status) -> list[dict[str, Any]]:
    """Why items ended so: each reason with its count and one item's message."""
    found = [i for i in items if i.status == status]
    counts = Counter(i.reason for i in found)
    first = {i.reason: i for i in reversed(found)}
    return [
        {"reason": reason, "count": count, "example": first[reason].item_id, "message": first[reason].message}
        for reason, count in counts.most_common(_REASONS)
    ]


def _shown(chosen: Chosen, thresholds: Thresholds) -> dict[str, Any]:
    """One card of the first screen: its words, and the numbers behind its fold."""
    item, region = chosen.item, chosen.region
    told = region is not None and region.held  # in the region's own words
    said = [item.message] if item.status != "done" and not told else []
    numbers = [f.text for f in item.findings]
    if region is not None:
        said += [change_in_words(region, thresholds), origin_in_words(region)]
        numbers += [f"{m.label} {region.metrics[m.name]:.{m.digits}f} {m.unit}" for m in _shown_figures(region)]
        numbers += agreement_numbers(region)
    return {
        "group": chosen.group,
        "run": item.run,
        "id": item.item_id,
        "region_id": chosen.region_id if len(item.regions) > 1 else "",
        "prompt": region.prompt if region else "",
        "flags": list(dict.fromkeys(FINDINGS[f.code].plain for f in item.findings)),
        "said": [line for line in said if line],
        "numbers": numbers,
    }


def _shown_figures(region: RegionMeasure) -> list[Figure]:
    return [m for m in FIGURES if m.group == "effect" and m.name in region.metrics]


def metric_limit(metric: str, thresholds: Thresholds) -> tuple[float | None, str]:
    """The threshold of a metric: the value above which it flags (None where it does not flag upwards), and in words."""
    t = thresholds
    above = {
        "changed_outside_px": (t.changed_outside_px, "px"),
        "raw_de00": (t.raw_de00, "ΔE00"),
        "raw_shift_px": (t.raw_shift_px, "px"),
        "raw_scale_pct": (t.raw_scale_pct, "%"),
        "seam_de": (t.seam_de, "ΔE76"),
        "detail_lost": (t.detail_lost, "of the source's"),
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


def _verdict(
    items: Sequence[ItemMeasure],
    counts: Counter[FindingCode],
    alarms: Sequence[Alarm],
    published: int | None,
    thresholds: Thresholds,
) -> dict[str, Any]:
    """The state; `sentences` say what became of the pictures, what changed inside the regions, and only then what did
    not change outside, unless something did; `sentence` is all of it in one."""
    compared = sum(i.status == "done" for i in items)
    broken = sum(any(FINDINGS[f.code].strict for f in i.findings) for i in items)
    look = sum(i.status == "done" and bool(i.findings) for i in items) - broken
    told = ("held", "dead")  # they are in the first sentence
    noted = [f"{k.label} {counts[c]:,}" for c, k in FINDINGS.items() if counts[c] and not k.strict and c not in told]
    if alarms:
        noted.append(f"trend alarm{'s' if len(alarms) > 1 else ''} {len(alarms):,}")
    state: Literal["clean", "attention", "violated"] = "clean"
    outside = "There is nothing to compare outside the regions."
    if compared:
        checked = "it was" if compared == 1 else f"all {compared:,} were"
        outside = f"Outside the regions nothing changed: {checked} checked pixel by pixel."
    if broken:
        state = "violated"
        kinds = ", ".join(
            f"{kind.label}: {counts[code]:,}" for code, kind in FINDINGS.items() if kind.strict and counts[code]
        )
        verb = "breaks" if broken == 1 else "break"
        outside = f"{broken:,} of {len(items):,} pictures {verb} the promise that nothing else changes ({kinds})."
    elif noted or counts["held"] or counts["dead"] or not compared:
        state = "attention"
    attention = ""
    if look > 0:
        attention = f"{look:,} {'wants' if look == 1 else 'want'} a look ({', '.join(noted)})."
    elif noted:
        attention = f"Look at: {', '.join(noted)}."
    said = [outcome_in_words(items, published), inside_in_words(items, thresholds), attention]
    sentences = [s for s in ([outside, *said] if broken else [*said, outside]) if s]
    return {"state": state, "sentences": sentences, "sentence": " ".join(sentences)}


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
    if metric.name in ("dead_share", "held_share"):
        return sum(f"{i.status}_share" == metric.name for i in items) / max(1, len(items))
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
