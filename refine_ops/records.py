"""What flows between the steps: items and regions in, conditioning and patches through the model, outcomes out.

Every record is frozen. Boxes are `(x0, y0, x1, y1)`, half-open, in pixels of the upright image.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]
U8Image = npt.NDArray[np.uint8]
"""RGB `uint8 (H, W, 3)`."""
F32Image = npt.NDArray[np.float32]
"""RGB `float32 (H, W, 3)` in [0, 1]."""
Mask = npt.NDArray[np.bool_]
"""`bool (H, W)`."""
Blend = npt.NDArray[np.float32]
"""`float32 (H, W)` in [0, 1]; its *support* is where it is > 0."""

PastePolicy = Literal["mask", "box"]
Status = Literal["done", "held", "dead"]
"""`held`: refined, and no region of it accepted; it waits for a person."""
ReferencePolicy = Literal["as_given", "registered"]
"""What a refiner is given of a reference: as it came, or in the region's pose and none where it does not fit."""
MadeBy = Literal["model", "transfer"]
Verdict = Literal["fits", "refused", "cannot tell"]
"""Of a reference: it is the right one in its pose; it is not; nothing left of the region says so."""


@dataclass(frozen=True, slots=True)
class Scribble:
    """Free-hand strokes: polylines in image pixels, drawn `width_px` wide with round caps."""

    strokes: tuple[tuple[tuple[float, float], ...], ...]
    width_px: float


@dataclass(frozen=True, slots=True)
class MaskReading:
    """How a mask file is read where the rule of `image.mask` does not tell: from which value on a pixel is marked, of
    which class it is, and whether it is the others that are meant."""

    level: int | None = None
    label: int | None = None
    invert: bool = False


PLAIN_READING: Final = MaskReading()


@dataclass(frozen=True, slots=True)
class Region:
    """One place to refine. Exactly one of `box`, `mask` and `scribble` is set.

    `mask`, `reference` and `references` are absolute URIs (resolved against the manifest); `references` are further
    views or editions of what `reference` shows, 16 of both at most. `seed` None means derived from the ids. `paste`
    says what is pasted back: the marked pixels, or the whole of their box. `mask_level`, `mask_class` and
    `mask_invert` tell how the mask file is read (`MaskReading`).
    """

    region_id: str
    prompt: str
    box: Box | None = None
    mask: str | None = None
    scribble: Scribble | None = None
    reference: str | None = None
    seed: int | None = None
    paste: PastePolicy = "mask"
    mask_level: int | None = None
    mask_class: int | None = None
    mask_invert: bool = False
    references: tuple[str, ...] = ()

    @property
    def all_references(self) -> tuple[str, ...]:
        """`reference` and `references`, each once, in their order."""
        named = (self.reference, *self.references)
        return tuple(dict.fromkeys(uri for uri in named if uri is not None))


@dataclass(frozen=True, slots=True)
class Item:
    """One image and its regions, as the manifest states them.

    `image` is an absolute URI; `output` is its plain name, a relative path; `row` is the first manifest row, from 0;
    `category` is the user's own slice for reports, or empty; `salt` is set when a person rejected an earlier result:
    it changes the seeds, so that the next one differs.
    """

    item_id: str
    image: str
    output: str
    regions: tuple[Region, ...]
    row: int
    category: str = ""
    salt: str = ""


@dataclass(frozen=True, slots=True)
class FocusCrop:
    """Where the model looks (Eq. 3-5).

    `tight` is B, the tight box of the mask. `crop` is C, inside the image. The view is C, reflect-padded by
    `pad` = (left, top, right, bottom) px where the image ends, then resized to `size` = (width, height) in model
    pixels; (C + pad) and `size` have the same aspect ratio, so the resize never stretches.
    """

    tight: Box
    crop: Box
    pad: tuple[int, int, int, int]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Everything the model is given for one region (Eq. 6), at model resolution.

    `image` is I_c, `uint8 (h, w, 3)`; `mask` is M_c, `bool (h, w)`; `support` is where the result will be pasted,
    `bool (h, w)` (contains `mask`; sparse targets denoise only there); `reference` is I_ref at its own size.

    Where references are registered, `reference` lies in the view's frame and has its size, or is None where none fits;
    `covered` `bool (h, w)` is where it reaches, `agreement` what was measured, `given` the reference as it came.
    `candidate` counts the region's candidates, from 0: but for seed and number all of them are given the same. `more`
    are the region's further references as they came: who takes several as they are given has them from here.
    """

    image: U8Image
    mask: Mask
    support: Mask
    prompt: str
    seed: int
    reference: U8Image | None = None
    covered: Mask | None = None
    agreement: "Agreement | None" = None
    given: U8Image | None = None
    candidate: int = 0
    more: tuple[U8Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Patch:
    """What the model made (Eq. 7): `float32 (h, w, 3)` sRGB in [0, 1], at model resolution.

    `generated` is `bool (h, w)`: True where the model made the pixels, False where known latents were put back
    (sparse targets). `batch_size` and `step_down` say how it ran; equal values give equal bytes. `roundtrip`, like
    `pixels`, is the crop as it comes back from the model's autoencoder; None where there is none.
    """

    pixels: F32Image
    generated: Mask
    batch_size: int
    step_down: str = "none"
    roundtrip: F32Image | None = None
    made_by: MadeBy = "model"


class Prepared(Protocol):
    """One region, prepared for the model; those of equal `bucket` may share a batch."""

    @property
    def bucket(self) -> Hashable: ...


class Refiner(Protocol):
    """The seam between image handling and the model."""

    @property
    def grid_px(self) -> int:
        """Sides of crops are multiples of this many pixels (32 for Qwen-Image-Edit, 8 for tiny)."""

    @property
    def focus_pixels(self) -> int:
        """Pixel budget of one crop, unless the settings say otherwise."""

    @property
    def tile_zoom(self) -> float:
        """Seen at less (model pixels per image pixel) a region is split into tiles, unless the settings say otherwise;
        0: never."""

    @property
    def reference(self) -> ReferencePolicy:
        """How it wants its references."""

    def batch_size(self, bucket: Any) -> int:
        """The fixed batch size for the works of one bucket; it may shrink while a run goes on."""

    def prepare(self, item: Conditioning) -> Any:
        """The host's part (resizing, tokens, noise), as `Prepared`; called by several threads at once.

        Raises:
            ItemError: this region cannot be given to the model.
        """

    def refine_prepared(self, batch: Sequence[Any]) -> list[Patch]:
        """Refine regions of one bucket, at most its batch size; fewer are padded inside to exactly that."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """What `align` estimated on the crop's known pixels and whether it was undone before pasting.

    Shifts in native pixels of the crop; `scale` 1.0 means none; dE00 is the median CIEDE2000 on known pixels.
    `measured` is False when too few known pixels were generated to tell.
    """

    measured: bool = False
    geometry_applied: bool = False
    tone_applied: bool = False
    dx_px: float = 0.0
    dy_px: float = 0.0
    scale: float = 1.0
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    de00_before: float = 0.0
    de00_after: float = 0.0
    inlier_share: float = 0.0

    @property
    def shift_px(self) -> float:
        """How far the model moved the crop, in native pixels."""
        return math.hypot(self.dx_px, self.dy_px)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a registered reference agrees with its region. Correlations in [-1, 1], shares in [0, 1].

    `rank` is the variance explained over all plus half of that around the mask, in [0, 1.5]; `outside` the robust
    correlation around the mask, `inside` that of the coarse shape in it; `covered` the share of M that the reference
    covers. `support`, `contradiction` and `silence` are shares of the region's own windows, `worst` what 95 % of those
    that show anything exceed; `residual_px` how far they lie off on average (view px). `reference` is the one that was
    taken, `lead` its rank over the second's; `pose` maps its pixels to the image's, a 3 x 3 homography row by row, None
    where none was found.
    """

    verdict: Verdict
    reason: str
    method: str
    inliers: int = 0
    residual_px: float = 0.0
    rank: float = 0.0
    outside: float = 0.0
    inside: float = 0.0
    covered: float = 0.0
    support: float = 0.0
    contradiction: float = 0.0
    silence: float = 0.0
    worst: float = 0.0
    reference: str = ""
    lead: float = 0.0
    pose: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Numbers of one region before and after that say whether it is better or worse (`judge/evidence`).

    All are taken over the pasted pixels of the crop, at native resolution. None means not measured: no reference, no
    text, no reader, too few pixels.

    Attributes:
        finite: every value the model made is a number.
        change: mean absolute difference, in 1/255.
        zoom: model pixels per native pixel along one side; below 1 the model saw less than there is.
        detail_lost: share of the source's detail, above its noise and JPEG blocks, that is gone, in [0, 1].
        detail_gained: detail after over before, both above the noise, log2 (1.0: twice as much).
        detail_kept: correlation of the fine detail before and after, in [-1, 1].
        detail_around: detail after over that around the region, log2 (0.0: as sharp as its surroundings).
        sharpness_before, sharpness_after, sharpness_around: the finest detail over the next coarser, log2, in the
            region and around it; what is blurred has little.
        explained: correlation of the region before with the one after, blurred by what fits best, in [-1, 1].
        overshoot: how far edges swing past what lies on either side of them in the source, in 1/255.
        grain: noise after, where it is flat, less that around the region, in 1/255.
        structure: correlation of the coarse shapes before and after, in [-1, 1].
        colour: CIEDE2000 between the coarse colours before and after, mean.
        shift_px: how far the region's content lies off its old place, in native pixels.
        reference_before, reference_after: correlation with the registered reference, in [-1, 1].
        reference_arrived: share of what the reference shows and the source did not that is there now, in [0, 1].
        reference_invented: share of what is there now that neither of them shows, in [0, 1].
        text_before, text_after: agreement of the text read with what is asked for, or the reading's confidence, in
            [0, 1].
        drift_px: how far the model moved the crop before it was undone, in native pixels.
        drift_de00: median CIEDE2000 on known pixels before it was undone.
        seam: the jump that the boundary shows beyond the source's own, CIE76.
        candidates: agreement with the candidates made before it: mean correlation of what they changed, in [-1, 1].
    """

    finite: bool = True
    change: float | None = None
    zoom: float | None = None
    detail_lost: float | None = None
    detail_gained: float | None = None
    detail_kept: float | None = None
    detail_around: float | None = None
    sharpness_before: float | None = None
    sharpness_after: float | None = None
    sharpness_around: float | None = None
    explained: float | None = None
    overshoot: float | None = None
    grain: float | None = None
    structure: float | None = None
    colour: float | None = None
    shift_px: float | None = None
    reference_before: float | None = None
    reference_after: float | None = None
    reference_arrived: float | None = None
    reference_invented: float | None = None
    text_before: float | None = None
    text_after: float | None = None
    drift_px: float | None = None
    drift_de00: float | None = None
    seam: float | None = None
    candidates: float | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """Whether a region is published. `reason` is empty where it is, else a name of `judge.gate.REASONS`; `score` is
    the gate's, None under fixed rules alone."""

    accepted: bool
    reason: str = ""
    score: float | None = None


@dataclass(frozen=True, slots=True)
class RegionOutcome:
    """What happened to one region.

    `support_px` counts the blend's pixels, `reach_px` is how far they may lie past what is pasted (0 where confined);
    `change` is the mean absolute difference to the input over what is pasted, in 1/255. `tiles` is how many looks it
    took; of several, `crop` holds all of theirs, the model's size is that of each, and `alignment` is that of the one
    whose colour was off most.

    `ruling` says whether that was published, on which `evidence`; both are None where nobody judged, and all was. A
    region that was not accepted is the source's own. Of `candidates` that were made, `taken` (from 0) is the one all
    this is about.
    """

    region_id: str
    seed: int
    tight: Box
    crop: Box
    model_width: int
    model_height: int
    support_px: int
    reach_px: int
    change: float
    batch_size: int
    step_down: str
    alignment: Alignment
    agreement: Agreement | None = None
    made_by: MadeBy = "model"
    tiles: int = 1
    evidence: Evidence | None = None
    ruling: Ruling | None = None
    candidates: int = 1
    taken: int = 0

    @property
    def accepted(self) -> bool:
        """Whether its pixels are in the output."""
        return self.ruling is None or self.ruling.accepted


@dataclass(frozen=True, slots=True)
class Verification:
    """Proof on the published bytes, as counted: decoded again by `decoder` and compared with the decoded source.

    `changed_px` counts all pixels that differ, `changed_outside_px` those outside the allowed change: 0 for everything
    that is published, as is `max_diff_outside`, in levels of the file's depth. `touched_mcus` counts the JPEG MCUs
    whose coefficients may differ (0 for other formats). `metadata_equal` is False only for a converted file whose new
    format has no place for some of it. `credentials_removed` says that the source had Content Credentials (C2PA), in it
    or behind a link, which sign its own pixels and are in no refined file; `marked` that the file's XMP says that a
    model made a part of it, `signed` that the file has a valid Content Credential of the operator's, with the
    source's, if any, in it.
    """

    decoder: str
    allowed_px: int
    changed_px: int
    changed_outside_px: int
    max_diff_outside: int
    touched_mcus: int
    metadata_equal: bool
    credentials_removed: bool = False
    marked: bool = False
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One item's record: what became of it, with what, and where. Written once the output is durable.

    `run_fingerprint` hashes what the pixels depend on beside the item (weights, settings, versions); `fingerprint` is
    that + the hashes of all inputs + the regions: equal fingerprints give equal pixels. `request` hashes the manifest
    row, `identity` what the stores say of the inputs without reading them (ETag, size, time): a rerun compares these
    two to skip what is done. `output` is the item's plain name, `object` where its bytes lie below the run folder,
    `start` the start that tried it. `timings_s` are wall-clock seconds per step.

    Where a region was held, `candidate` is the object of a file that has it too, for a person to look at; of a held
    item `verification` is about that one, and `object` is empty or a copy of the source.
    """

    item_id: str
    fingerprint: str
    status: Status
    request: str = ""
    identity: str = ""
    category: str = ""
    reason: str = ""
    message: str = ""
    row: int = -1
    image: str = ""
    output: str = ""
    object: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    source_sha256: str = ""
    output_sha256: str = ""
    source_bytes: int = 0
    output_bytes: int = 0
    candidate: str = ""
    candidate_sha256: str = ""
    candidate_bytes: int = 0
    regions: tuple[RegionOutcome, ...] = ()
    verification: Verification | None = None
    timings_s: dict[str, float] = field(default_factory=dict)
    attempts: int = 1
    rank: int = 0
    start: int = 0
    finished_at: float = 0.0
    run_fingerprint: str = ""
