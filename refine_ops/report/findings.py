"""Which numbers are worth a person's time: thresholds turned into findings, each with its value, limit and unit."""

from refine_ops.judge.gate import REASONS
from refine_ops.proof.recheck import Strict
from refine_ops.report.config import Thresholds
from refine_ops.report.figures import Finding, FindingCode


def strict_findings(strict: Strict, limits: Thresholds) -> list[Finding]:
    """Broken promises about the published file."""
    found = []
    if strict.changed_outside_px > limits.changed_outside_px:
        text = (
            f"{strict.changed_outside_px:,} px changed outside the allowed change, by up to {strict.max_diff_outside} "
            f"levels (limit {limits.changed_outside_px:,} px)"
        )
        found.append(Finding("strict.pixels", strict.changed_outside_px, limits.changed_outside_px, text))
    if strict.metadata_lost:
        text = f"not kept: {', '.join(strict.metadata_lost)} (limit: none lost)"
        found.append(Finding("strict.metadata", len(strict.metadata_lost), 0, text))
    return found


def held_finding(region_id: str, reason: str) -> Finding:
    """A region that the judge did not accept; the others of its item are published."""
    text = f"region {region_id}: held, {REASONS.get(reason, reason)} ({reason})"
    return Finding("region.held", 1, 0, text, region_id)


def region_findings(region_id: str, metrics: dict[str, float], limits: Thresholds) -> list[Finding]:
    """Findings of one region; metrics that were not measured find nothing."""
    found = []

    def above(code: FindingCode, name: str, limit: float, words: str, unit: str) -> None:
        value = metrics.get(name)
        if value is not None and value > limit:
            text = f"region {region_id}: {words} {value:.2f} {unit} (limit {limit:g} {unit})"
            found.append(Finding(code, value, limit, text, region_id))

    if is_softer(metrics, limits):
        lost, limit = metrics["detail_lost"], limits.detail_lost
        text = f"region {region_id}: lost {lost:.0%} of the source's detail, and gained less (limit {limit:.0%})"
        found.append(Finding("effect.softer", lost, limit, text, region_id))
    above("seam", "seam_de", limits.seam_de, "seam of", "ΔE76")
    above("drift.shift", "raw_shift_px", limits.raw_shift_px, "raw patch shifted by", "px")
    above("drift.scale", "raw_scale_pct", limits.raw_scale_pct, "raw patch scaled by", "%")
    above("drift.tone", "raw_de00", limits.raw_de00, "raw patch off in tone by", "ΔE00 (median)")
    found.extend(_effect_findings(region_id, metrics, limits))
    return found


def is_softer(metrics: dict[str, float], limits: Thresholds) -> bool:
    """Whether a region lost too much of its detail, and holds less than before: content that was exchanged loses its
    detail too, but for other detail."""
    return metrics.get("detail_lost", 0.0) > limits.detail_lost and metrics.get("detail", 0.0) < 0


def _effect_findings(region_id: str, metrics: dict[str, float], limits: Thresholds) -> list[Finding]:
    levels, colour, ssim = (metrics.get(n) for n in ("change_levels", "change_de00", "region_ssim"))
    if levels is None or colour is None or ssim is None:
        return []
    if levels <= limits.untouched_levels:
        limit = limits.untouched_levels
        text = f"region {region_id}: changed by {levels:.2f} levels on average (limit: more than {limit:g})"
        return [Finding("effect.none", levels, limit, text, region_id)]
    if colour > limits.overdone_de00:
        text = f"region {region_id}: changed by {colour:.1f} ΔE00 on average (limit {limits.overdone_de00:g} ΔE00)"
        return [Finding("effect.much", colour, limits.overdone_de00, text, region_id)]
    if ssim < limits.overdone_ssim and colour > limits.overdone_de00 / 3:
        text = (
            f"region {region_id}: nothing of the source is left, SSIM {ssim:.2f} at {colour:.1f} ΔE00 "
            f"(limits {limits.overdone_ssim:g} and {limits.overdone_de00 / 3:.1f} ΔE00)"
        )
        return [Finding("effect.much", ssim, limits.overdone_ssim, text, region_id)]
    return []
