"""Settings of the drift report: what is compared, which thresholds flag an item, when a trend raises an alarm."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from refine_ops.config import ImageLimits, Settings, renamed
from refine_ops.judge.gate import MOST_DETAIL_LOST


class Thresholds(Settings):
    """When an item is flagged. Every threshold is one kind of number (count, ratio or magnitude), never a mixture."""

    changed_outside_px: int = Field(
        0, ge=0, description="Count: changed pixels outside the allowed change that are tolerated; strict means 0."
    )
    raw_shift_px: float = Field(1.0, gt=0, description="Magnitude: raw shift of the crop's context, in native px.")
    raw_scale_pct: float = Field(0.5, gt=0, description="Magnitude: raw scale error of the crop's context, in %.")
    raw_de00: float = Field(3.0, gt=0, description="Magnitude: median CIEDE2000 of the crop's context.")
    detail_lost: float = Field(
        MOST_DETAIL_LOST,
        gt=0,
        le=1,
        description="Ratio: share of a region's detail, noise and JPEG blocks apart, that may be lost where the region "
        "holds less of it than before; the gate's own limit.",
    )
    seam_de: float = Field(
        1.5, gt=0, description="Magnitude: CIE76 jump across the worst boundary segment beyond the source's own."
    )
    untouched_levels: float = Field(
        0.75,
        ge=0,
        description="Magnitude: a mean absolute change of the region at or below this many 1/255 is nothing.",
    )
    overdone_de00: float = Field(
        25.0, gt=0, description="Magnitude: mean CIEDE2000 of the region above which it is too much."
    )
    overdone_ssim: float = Field(
        0.1,
        ge=-1,
        le=1,
        description="Ratio: SSIM of the region below which, with a third of overdone_de00, it is too much.",
    )


class PictureSettings(Settings):
    """Which pictures the report carries."""

    crop_px: int = Field(384, ge=64, le=2048, description="Longest side of a region's before and after pictures.")
    close_up_px: int = Field(
        640, ge=64, le=2048, description="Longest side of the pictures on the first screen, of at most 20 items."
    )
    window_px: int = Field(192, ge=32, le=1024, description="Side of the 1:1 window around the worst place of an item.")
    thumb_px: int = Field(72, ge=16, le=256, description="Side of the table's thumbnails.")
    quality: int = Field(82, ge=30, le=100, description="WebP quality of the pictures; difference maps are lossless.")
    keep_items: int = Field(
        5000, ge=0, description="Items with pictures at most, spread evenly; flagged items are kept whatever this says."
    )


class TrendSettings(Settings):
    """History and alarms. A metric of a slice alarms against its own past runs only."""

    folder: str | None = Field(None, description="Folder or s3:// prefix of the run summaries; None: no trend.")
    window_runs: int = Field(30, ge=5, description="Past runs looked at.")
    min_runs: int = Field(7, ge=4, description="Past runs needed before a metric can alarm.")
    min_items: int = Field(5, ge=1, description="Measured items a slice needs in a run before it can alarm.")
    z: float = Field(6.0, gt=0, description="Robust z-score of the newest run that raises an alarm.")
    cusum_h: float = Field(9.0, gt=0, description="Decision interval of the change-point alarm (CUSUM), in sigmas.")
    cusum_k: float = Field(0.75, gt=0, description="Slack of the change-point alarm, in sigmas.")


class Cost(Settings):
    """What a GPU costs, for the cost per 1,000 images."""

    gpu_hour: float | None = Field(None, ge=0, description="Price of one GPU-hour; None: cost is not stated.")
    currency: str = Field("USD", max_length=8)


class MeasureSettings(Settings):
    """How items are compared; shared by runs and pairs of folders."""

    thresholds: Thresholds = Thresholds()
    pictures: PictureSettings = PictureSettings()
    limits: ImageLimits = ImageLimits()
    processes: int | None = Field(None, ge=1, description="Processes that decode and compare; default one per core.")

    @model_validator(mode="before")
    @classmethod
    def _former_name(cls, values: Any) -> Any:
        return renamed(values, "evidence", "pictures")


class PerceptualSettings(Settings):
    """LPIPS of regions and of kept raw patches, and the accuracy of text that a prompt quotes; computed by models."""

    weights: str | None = Field(None, description="Folder of alexnet.safetensors (torchvision's).")
    allow_hub: bool = Field(False, description="Allow the download of these weights.")
    text: bool = Field(True, description="Read quoted text before and after (rapidocr, on the CPU).")
    device: Literal["auto", "cpu"] = "auto"


class FolderPair(Settings):
    """Two folders of images compared without a run folder."""

    before: str = Field(description="Folder of the source images.")
    after: str = Field(description="Folder of the edited images, with the same names (the suffix may differ).")
    regions: str | None = Field(
        None,
        description='JSONL, `{"image": name, "box": [x0, y0, x1, y1]}` or `"mask": path` a line; or a folder of masks '
        "named like the images. None: nothing may have changed.",
    )
    reach_px: int = Field(8, ge=0, description="How far past a region its edit may reach; 8 for the paper's kernels.")


class DriftReportConfig(Settings):
    """The one parameter of the flow `drift-report`."""

    runs: tuple[str, ...] = Field((), description="Run folders, local or s3://.")
    folders: FolderPair | None = Field(None, description="Two folders of images instead of runs.")
    source: str | None = Field(None, description="A report folder: render its HTML again, measure nothing.")
    out: str | None = Field(None, description="Where the report goes; default: `report/` in the (first) run folder.")
    nights: int | None = Field(
        None,
        ge=1,
        description="Only the newest nights of each run, starts that refined something; None: the whole.",
    )
    measure: MeasureSettings = MeasureSettings()
    perceptual: PerceptualSettings | None = Field(
        None,
        description="LPIPS and text accuracy; None: not measured anew (an earlier report's stay in the run folder).",
    )
    trend: TrendSettings = TrendSettings()
    cost: Cost = Cost()
    layout: Literal["auto", "single", "folder"] = Field(
        "auto", description="One self-contained HTML file (auto: up to 500 items), or a folder with paged data."
    )
    fail_on: Literal["never", "strict", "alarm"] = Field(
        "strict", description="Fail the flow on a strict violation, or on any alarm too."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [bool(self.runs), self.folders is not None, self.source is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of runs, folders (--before, --after) and source (--from)")
        if self.folders is not None and self.out is None:
            raise ValueError("two folders need `out` (--out): there is no run folder to put the report in")
        return self

    @property
    def report_folder(self) -> str:
        """Where `report.json` lies or will lie."""
        if self.source is not None:
            return self.source
        return self.out or self.runs[0].rstrip("/") + "/report"
