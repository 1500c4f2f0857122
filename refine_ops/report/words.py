"""What a catalogue manager reads: numbers put into plain words. The numbers themselves stay behind a fold."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from refine_ops.judge.gate import REASONS
from refine_ops.report.config import Thresholds
from refine_ops.report.figures import ItemMeasure, RegionMeasure
from refine_ops.report.findings import is_softer

Sharpness = Literal["sharper", "about as sharp", "softer", "unchanged", "held", "not measured"]

_SHARPER_LOG2 = 0.3
"""Detail gained from which on a region is called sharper: a quarter more contrast in its fine detail, about what is
seen at a glance."""


def sharpness(region: RegionMeasure, limits: Thresholds) -> Sharpness:
    """How a region looks now against before."""
    metrics = region.metrics
    if region.held:
        return "held"
    if "change_levels" not in metrics:
        return "not measured"
    if metrics["change_levels"] <= limits.untouched_levels:
        return "unchanged"
    if is_softer(metrics, limits):
        return "softer"
    return "sharper" if metrics.get("detail", 0.0) >= _SHARPER_LOG2 else "about as sharp"


def change_in_words(region: RegionMeasure, limits: Thresholds) -> str:
    """What became of the region, as a sentence; empty where nothing was measured."""
    said = {
        "sharper": "Sharper than before.",
        "about as sharp": "About as sharp as before.",
        "softer": "Softer than before.",
        "unchanged": "Did not change.",
        "held": f"Held: {REASONS.get(region.held, region.held)}; it keeps the source's pixels.",
        "not measured": "",
    }[sharpness(region, limits)]
    gain = region.metrics.get("text_gain")
    if gain is not None and abs(gain) >= 0.05:
        said += " Its text reads better." if gain > 0 else " Its text reads worse."
    return said.strip()


def origin_in_words(region: RegionMeasure) -> str:
    """What the region was made of, and what became of its reference; empty where nobody recorded it."""
    if not region.made_by:
        return ""
    if region.made_by == "transfer":
        return "Taken from its reference, without the model."
    return {
        "none": "Made by the model.",
        "as given": "Made by the model, which saw the reference as it came.",
        "fits": "Made by the model from its reference, which fits.",
        "refused": "Made by the model; its reference does not fit.",
        "cannot tell": "Made by the model; whether its reference fits cannot be told.",
    }[region.reference]


def agreement_numbers(region: RegionMeasure) -> list[str]:
    """Why a registered reference fits or not: the numbers that its verdict rests on."""
    found = region.agreement
    if found is None:
        return []
    head = {"fits": "the reference fits", "refused": "the reference was refused", "cannot tell": "cannot tell"}
    lines = [
        f"{head[found.verdict]}: {found.reason}",
        f"agreement {found.rank:.2f}, around the region {found.outside:.2f}, coarse shape inside {found.inside:.2f}",
        f"covers {found.covered:.0%}, supported by {found.support:.0%}, contradicted by {found.contradiction:.0%}, "
        f"silent {found.silence:.0%}; off by {found.residual_px:.1f} px on average; found by {found.method}",
    ]
    if found.lead:
        lines.append(f"ahead of the next of its references by {found.lead:.2f}")
    return lines


def outcome_in_words(items: Sequence[ItemMeasure], published: int | None) -> str:
    """What became of the pictures."""
    status = Counter(i.status for i in items)
    total = len(items)
    count, what = (status["done"], "refined") if published is None else (published, "published")
    if count == total:
        said = f"All {_pictures(total)} are {what}" if total > 1 else f"The picture is {what}"
    else:
        said = f"{count:,} of {_pictures(total)} {'is' if count == 1 else 'are'} {what}"
    if published is not None and published < status["done"]:
        said += f" ({status['done'] - published:,} more refined, not published)"
    if status["held"]:
        said += f", {status['held']:,} held for a person to decide"
    if status["dead"]:
        said += f", {status['dead']:,} could not be refined"
    return said + "."


def inside_in_words(items: Sequence[ItemMeasure], limits: Thresholds) -> str:
    """What changed inside the regions; empty where nothing was measured."""
    found = Counter(sharpness(region, limits) for item in items if item.status == "done" for region in item.regions)
    measured = sum(found.values()) - found["not measured"]
    if not measured:
        return ""
    kinds: tuple[Sharpness, ...] = ("sharper", "about as sharp", "softer", "unchanged", "held")
    counts = [f"{found[kind]:,} {kind}" for kind in kinds if found[kind]]
    if len(counts) == 1:
        kind = counts[0].split(" ", 1)[1]
        return f"Inside the regions: {'the one' if measured == 1 else f'all {measured:,}'} {kind}."
    return f"Inside the {measured:,} regions: {', '.join(counts)}."


def made_in_words(items: Sequence[ItemMeasure]) -> list[str]:
    """How many regions were made by transfer, by the model, and with what of their references; one line each."""
    regions = (r for i in items if i.status == "done" for r in i.regions if r.made_by and not r.held)
    made = Counter((r.made_by, r.reference) for r in regions)
    transfer = sum(n for (maker, _), n in made.items() if maker == "transfer")
    by_model = {reference: n for (maker, reference), n in made.items() if maker == "model"}
    lines = [
        (transfer, "taken from a reference that fits, without the model"),
        (by_model.get("fits", 0), "made by the model from a reference that fits"),
        (by_model.get("as given", 0), "made by the model with the reference as it came"),
        (by_model.get("none", 0), "made by the model without a reference"),
        (by_model.get("refused", 0), "made by the model, as the reference does not fit"),
        (by_model.get("cannot tell", 0), "made by the model; whether the reference fits cannot be told"),
    ]
    return [f"{count:,} {text}" for count, text in lines if count]


def _pictures(count: int) -> str:
    return f"{count:,} picture" + ("" if count == 1 else "s")
