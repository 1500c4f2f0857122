"""What the report knows about an item, and the one table that says what every number means."""

from dataclasses import dataclass, field
from typing import Literal

from refine_ops.records import Agreement, MadeBy, Status

Group = Literal["strict", "raw drift", "seam", "effect", "run"]
FigureKind = Literal["count", "ratio", "magnitude"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: `kind` and `unit` are printed beside it everywhere; `worse` is the direction in which it alarms
    (`both`: any move of the run's median is news); `floor` is the smallest move of a run's median that matters."""

    name: str
    label: str
    unit: str
    kind: FigureKind
    group: Group
    worse: Literal["up", "down", "both"]
    floor: float
    digits: int
    meaning: str


FIGURES: tuple[Figure, ...] = (
    Figure("changed_outside_px", "changed outside", "px", "count", "strict", "up", 0.5, 0,
           "Pixels that differ from the source outside the allowed change, in any channel; 0 is the promise."),
    Figure("max_diff_outside", "largest difference outside", "levels", "magnitude", "strict", "up", 0.5, 0,
           "Largest difference there, in levels of the file's own bit depth."),
    Figure("raw_de00", "raw tone shift", "ΔE00", "magnitude", "raw drift", "both", 0.3, 2,
           "Median CIEDE2000 of the crop's context in the raw patch, before paste-back hides it."),
    Figure("raw_de00_p95", "raw tone shift, p95", "ΔE00", "magnitude", "raw drift", "both", 0.6, 2,
           "95th percentile of the same."),
    Figure("raw_shift_px", "raw shift", "px", "magnitude", "raw drift", "both", 0.15, 2,
           "How far the model moved the crop's context, in native pixels."),
    Figure("raw_scale_pct", "raw scale error", "%", "magnitude", "raw drift", "both", 0.1, 2,
           "How much the model zoomed the crop's context."),
    Figure("raw_ssim", "raw SSIM", "SSIM", "ratio", "raw drift", "both", 0.02, 3,
           "Mean SSIM over windows wholly in the crop's context."),
    Figure("raw_lpips", "raw LPIPS", "LPIPS", "magnitude", "raw drift", "both", 0.02, 3,
           "LPIPS of the crop's context, where it was computed."),
    Figure("seam_de", "seam", "ΔE76", "magnitude", "seam", "up", 0.3, 2,
           "Abrupt, coherent colour step across the worst 48 px of the boundary, beyond the source's own."),
    Figure("seam_share", "visible seam", "of boundary", "ratio", "seam", "up", 0.02, 3,
           "Share of the boundary with a step of 1.5 ΔE76 or more."),
    Figure("change_levels", "region change", "levels", "magnitude", "effect", "both", 0.5, 2,
           "Mean absolute difference in the region, in 1/255."),
    Figure("change_de00", "region change, colour", "ΔE00", "magnitude", "effect", "both", 0.3, 2,
           "Mean CIEDE2000 between the region before and after."),
    Figure("region_ssim", "region SSIM", "SSIM", "ratio", "effect", "both", 0.02, 3,
           "Mean SSIM between the region before and after."),
    Figure("detail", "detail gained", "log2", "magnitude", "effect", "both", 0.1, 2,
           "log2 of the contrast of fine detail after / before, noise and JPEG blocks apart: +1 is twice as much."),
    Figure("detail_lost", "detail lost", "of the source's", "ratio", "effect", "up", 0.05, 2,
           "Share of the source's detail in the region, noise and JPEG blocks apart, that is gone from its place."),
    Figure("region_lpips", "region LPIPS", "LPIPS", "magnitude", "effect", "both", 0.02, 3,
           "LPIPS between the region before and after, where it was computed."),
    Figure("text_gain", "text accuracy gained", "of characters", "ratio", "effect", "down", 0.03, 3,
           "Character accuracy after minus before, where the region holds text and it was read."),
)  # fmt: skip

RUN_FIGURES: tuple[Figure, ...] = (
    Figure("dead_share", "dead letters", "of items", "ratio", "run", "up", 0.01, 4,
           "Share of items that ended in the dead letter."),
    Figure("held_share", "held", "of items", "ratio", "run", "up", 0.01, 4,
           "Share of items of which nothing was accepted: they wait for a person."),
    Figure("strict_share", "strict violations", "of items", "ratio", "run", "up", 0.0005, 4,
           "Share of items with a broken promise about the published file."),
    Figure("softer_share", "softer than before", "of items", "ratio", "run", "up", 0.01, 4,
           "Share of items with a region that lost detail."),
    Figure("transfer_share", "made by transfer", "of regions", "ratio", "run", "both", 0.05, 4,
           "Share of refined regions that were made of their reference alone, without the model."),
    Figure("unfit_share", "references that do not fit", "of references", "ratio", "run", "up", 0.05, 4,
           "Share of regions with a registered reference whose reference was refused or cannot be told."),
    Figure("untouched_share", "nothing happened", "of items", "ratio", "run", "up", 0.01, 4,
           "Share of items with a region that did not change."),
    Figure("items_per_s", "throughput", "items/s", "magnitude", "run", "down", 0.0, 3,
           "Finished items per second of wall clock."),
    Figure("gpu_s_per_item", "device time", "s/item", "magnitude", "run", "up", 0.0, 3,
           "Seconds of the refine step per finished item."),
    Figure("attempts", "attempts", "per item", "magnitude", "run", "up", 0.02, 3,
           "Mean attempts per item; 1 is none retried."),
)  # fmt: skip

FindingCode = Literal[
    "strict.pixels", "strict.metadata", "strict.bytes", "strict.unreadable", "held", "dead", "region.held",
    "effect.softer", "seam", "drift.shift", "drift.tone", "drift.scale", "effect.none", "effect.much",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class FindingKind:
    """`plain` is what a catalogue manager reads; `weight` orders kinds: every broken promise comes before every matter
    of taste."""

    label: str
    weight: int
    plain: str
    strict: bool = False


FINDINGS: dict[FindingCode, FindingKind] = {
    "strict.pixels": FindingKind(
        "pixels changed outside the allowed change", 10, "Changed outside its marked regions", strict=True
    ),
    "strict.metadata": FindingKind("format or metadata not kept", 9, "Format or metadata was lost", strict=True),
    "strict.bytes": FindingKind(
        "file differs from what the run recorded", 8, "The file was replaced after the run", strict=True
    ),
    "strict.unreadable": FindingKind(
        "published file or source cannot be read", 8, "The file cannot be opened", strict=True
    ),
    "held": FindingKind("held", 7, "Held: nothing good enough came out"),
    "dead": FindingKind("dead letter", 6, "Could not be refined"),
    "region.held": FindingKind("region held", 5, "A region was held: it keeps the source's pixels"),
    "effect.softer": FindingKind("softer than before", 5, "Softer than before: detail was lost"),
    "seam": FindingKind("visible seam", 5, "The edge of the edit can be seen"),
    "drift.shift": FindingKind("raw patch shifted", 4, "The model moved the picture (undone, but look)"),
    "drift.scale": FindingKind("raw patch scaled", 4, "The model zoomed the picture (undone, but look)"),
    "drift.tone": FindingKind("raw patch changed tone", 4, "The model changed the colours (undone, but look)"),
    "effect.none": FindingKind("nothing happened", 3, "Nothing happened in a region"),
    "effect.much": FindingKind("too much happened", 3, "Changed beyond recognition"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason to look at an item. `value` and `limit` share the unit; `text` is the sentence with the numbers;
    `region_id` is empty where it is about the whole."""

    code: FindingCode
    value: float
    limit: float
    text: str
    region_id: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """One place worth a picture. `box` is in upright image pixels; pictures are encoded files at `scale` (1.0: native).

    `difference` is a lossless grey map of the largest channel difference. Outlines are polylines in picture pixels:
    the mask, the allowed change, the worst stretch of boundary.
    """

    title: str
    box: tuple[int, int, int, int]
    scale: float
    width: int
    height: int
    before: bytes
    after: bytes
    difference: bytes
    raw: bytes = b""
    mask_lines: tuple[tuple[tuple[int, int], ...], ...] = ()
    allowed_lines: tuple[tuple[tuple[int, int], ...], ...] = ()
    seam_line: tuple[tuple[int, int], ...] = ()


Reference = Literal["none", "as given", "fits", "refused", "cannot tell"]


@dataclass(frozen=True, slots=True)
class RegionMeasure:
    """The numbers of one region; a metric that is missing was not measured.

    `reference` says what became of its reference: `as given` where the model saw it as it came; `agreement` holds the
    numbers of a registered one. `held` is why the region was not published and keeps the source's pixels.
    """

    region_id: str
    prompt: str
    metrics: dict[str, float]
    made_by: MadeBy | Literal[""] = ""
    reference: Reference = "none"
    agreement: Agreement | None = None
    held: str = ""


@dataclass(frozen=True, slots=True)
class ItemMeasure:
    """Everything measured on one item. `metrics` holds the worst region's value of each metric."""

    run: str
    item_id: str
    fingerprint: str
    status: Status
    reason: str
    message: str
    image: str
    output: str
    format: str = ""
    width: int = 0
    height: int = 0
    metadata_lost: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    regions: tuple[RegionMeasure, ...] = ()
    findings: tuple[Finding, ...] = ()
    slices: dict[str, str] = field(default_factory=dict)
    attempts: int = 1
    gpu_s: float | None = None
    finished_at: float = 0.0
    start: int = 0

    @property
    def severity(self) -> float:
        """Sort key, worst first: kind of the gravest finding, then how far past its limit, squashed into [0, 1)."""
        return max((FINDINGS[f.code].weight + _excess(f) for f in self.findings), default=0.0)


@dataclass(frozen=True, slots=True)
class Compared:
    """What a worker process hands back: numbers and encoded pictures, never arrays."""

    measure: ItemMeasure
    thumb: bytes = b""
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True)
class CloseUp:
    """One region of one item; encoded pictures, empty where there is none. `said` and `after_said` are what `reference`
    and `after` show."""

    run: str
    item_id: str
    before: bytes
    after: bytes
    reference: bytes = b""
    said: str = ""
    after_said: str = "after"


def _excess(finding: Finding) -> float:
    distance = abs(finding.value - finding.limit) / max(abs(finding.limit), 1.0)
    return distance / (1.0 + distance)
