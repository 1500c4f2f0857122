"""One item: read both files, measure everything, find what is wrong, cut the pictures."""

from dataclasses import replace

import numpy as np

from refine_ops.errors import ItemError
from refine_ops.image.focus import crop_of
from refine_ops.judge.evidence.change import measure_effect
from refine_ops.judge.evidence.detail import measure_detail
from refine_ops.judge.evidence.drift import Drift, from_alignment, measure_drift
from refine_ops.judge.evidence.likeness import grey_of
from refine_ops.judge.evidence.seam import measure_seam
from refine_ops.proof.recheck import Strict, check_strict
from refine_ops.records import Region
from refine_ops.report.config import MeasureSettings
from refine_ops.report.figures import FINDINGS, Compared, Finding, ItemMeasure, Reference, RegionMeasure
from refine_ops.report.findings import held_finding, region_findings, strict_findings
from refine_ops.report.measure.pair import Pair, open_pair, raw_patch
from refine_ops.report.measure.pictures import SeamLine
from refine_ops.report.measure.windows import item_thumbnail, item_windows
from refine_ops.report.run_items import ReportedItem

_CONTEXT_PX = 64
_LEAST_IS_WORST = frozenset({"raw_ssim", "region_ssim", "change_levels", "detail", "text_gain"})


def compare(item: ReportedItem, settings: MeasureSettings, keep_pictures: bool) -> Compared:
    """Measure one item; whatever is wrong with its files becomes a finding, never an exception.

    Args:
        keep_pictures: keep pictures of a clean item too; flagged items always have them.
    """
    if item.status != "done":
        what = "held" if item.status == "held" else "dead letter"
        return failed(item, Finding(item.status, 1, 0, f"{what}, {item.reason}: {item.message}"))
    try:
        pair = open_pair(item, settings.limits)
        strict = check_strict(pair.source, pair.output, pair.allowed, item.rules)
        regions, seams = _regions(item, pair, settings) if pair.comparable else ([], {})
    except ItemError as e:
        return failed(item, Finding("strict.unreadable", 1, 0, f"{e.reason}: {e}"))
    findings = [*pair.findings]
    findings += strict_findings(strict, settings.thresholds)
    for region in regions:
        if region.held:
            findings.append(held_finding(region.region_id, region.held))
        else:
            findings += region_findings(region.region_id, region.metrics, settings.thresholds)
    wanted = pair.comparable and (keep_pictures or bool(findings))
    return Compared(
        _measured(item, pair, strict, regions, findings),
        item_thumbnail(pair, settings),
        item_windows(item, pair, strict, regions, seams, settings) if wanted else (),
    )


def failed(item: ReportedItem, finding: Finding) -> Compared:
    """An item that cannot be measured, with the reason."""
    unmeasured = tuple(_of_region(item, region, {}) for region in item.regions)
    return Compared(replace(_unmeasured(item), regions=unmeasured, findings=(finding,)))


def _regions(
    item: ReportedItem, pair: Pair, settings: MeasureSettings
) -> tuple[list[RegionMeasure], dict[str, SeamLine]]:
    measured, seams = [], {}
    for region in item.regions:
        metrics, seams[region.region_id] = _region(item, region, pair, settings)
        metrics |= item.extra.get(region.region_id, {})
        measured.append(_of_region(item, region, metrics))
    return measured, seams


def _of_region(item: ReportedItem, region: Region, metrics: dict[str, float]) -> RegionMeasure:
    """The numbers beside who made the region and what became of its reference."""
    agreement = item.agreements.get(region.region_id)
    reference: Reference = "as given" if region.all_references else "none"
    if agreement is not None:
        reference = agreement.verdict
    return RegionMeasure(
        region.region_id,
        region.prompt,
        metrics,
        item.makers.get(region.region_id, ""),
        reference,
        agreement,
        item.held.get(region.region_id, ""),
    )


def _region(
    item: ReportedItem, region: Region, pair: Pair, settings: MeasureSettings
) -> tuple[dict[str, float], SeamLine]:
    box = pair.grown_box(region.region_id, max(_CONTEXT_PX, 3 * pair.reach_px))
    before, after = (np.ascontiguousarray(crop_of(image.rgb, box)) for image in (pair.source, pair.output))
    inside = np.ascontiguousarray(crop_of(pair.marked[region.region_id], box))
    effect = measure_effect(before, after, inside)
    detail = measure_detail(grey_of(before), grey_of(after), inside)
    metrics = {
        "change_levels": effect.levels,
        "change_de00": effect.de00,
        "region_ssim": effect.ssim,
        "detail": detail.gained,
        "detail_lost": detail.lost,
    }
    metrics |= _drift_metrics(_raw_drift(item, region, pair, settings))
    seam = measure_seam(before, after, inside, pair.reach_px)
    if seam is None:
        return metrics, ()
    return metrics | {"seam_de": seam.de, "seam_share": seam.share}, tuple(
        (x + box[0], y + box[1]) for x, y in seam.worst
    )


def _raw_drift(item: ReportedItem, region: Region, pair: Pair, settings: MeasureSettings) -> Drift | None:
    """As the worker's `align` step recorded it, completed from the kept patch where there is one; for edits of another
    tool, off the output around the region."""
    if item.drift_from_output:
        box = pair.grown_box(region.region_id, 2 * _CONTEXT_PX)
        before, after = crop_of(pair.source.rgb, box), crop_of(pair.output.rgb, box)
        return measure_drift(before, after, ~crop_of(pair.allowed, box))
    recorded = from_alignment(item.alignments[region.region_id]) if region.region_id in item.alignments else None
    patch = raw_patch(item, region, settings.limits)
    if patch is None:
        return recorded
    box = item.crops[region.region_id]
    seen = measure_drift(crop_of(pair.source.rgb, box), patch, ~crop_of(pair.allowed, box))
    if recorded is None or seen is None:
        return recorded or seen
    return Drift(recorded.shift_px, recorded.scale_pct, recorded.de00, seen.de00_p95, seen.ssim)


def _drift_metrics(drift: Drift | None) -> dict[str, float]:
    if drift is None:
        return {}
    values = {
        "raw_de00": drift.de00,
        "raw_de00_p95": drift.de00_p95,
        "raw_shift_px": drift.shift_px,
        "raw_scale_pct": drift.scale_pct,
        "raw_ssim": drift.ssim,
    }
    return {name: value for name, value in values.items() if value is not None}


def _measured(
    item: ReportedItem, pair: Pair, strict: Strict, regions: list[RegionMeasure], findings: list[Finding]
) -> ItemMeasure:
    metrics = {
        "changed_outside_px": float(strict.changed_outside_px),
        "max_diff_outside": float(strict.max_diff_outside),
    }
    for region in regions:
        for name, value in region.metrics.items():
            worst = min if name in _LEAST_IS_WORST else max
            metrics[name] = worst(metrics.get(name, value), value)
    return replace(
        _unmeasured(item),
        format=pair.output.format,
        width=pair.output.width,
        height=pair.output.height,
        metadata_lost=strict.metadata_lost,
        metrics=metrics,
        regions=tuple(regions),
        findings=tuple(sorted(findings, key=lambda f: -FINDINGS[f.code].weight)),
    )


def _unmeasured(item: ReportedItem) -> ItemMeasure:
    return ItemMeasure(
        run=item.run,
        item_id=item.item_id,
        fingerprint=item.fingerprint,
        status=item.status,
        reason=item.reason,
        message=item.message,
        image=item.image,
        output=item.output,
        slices=item.slices,
        attempts=item.attempts,
        gpu_s=item.gpu_s,
        finished_at=item.finished_at,
        start=item.start,
    )
