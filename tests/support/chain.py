"""The chain of one image with a patch of the test's own in the model's place."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refine_ops.config import ImageLimits, PasteSettings, ProvenanceSettings, WriteSettings
from refine_ops.image import focus, paste, place, read, write
from refine_ops.image.formats.edit import Encoded
from refine_ops.image.source import Source
from refine_ops.proof import verify
from refine_ops.proof.allowed import Rules
from refine_ops.provenance import policy as provenance
from refine_ops.records import Box, FocusCrop, PastePolicy, Verification

LIMITS = ImageLimits()


@dataclass(frozen=True)
class ChainResult:
    source: Source
    canvas: paste.Canvas
    encoded: Encoded
    regions: list[tuple[np.ndarray, PastePolicy]]
    rules: Rules
    proof: Verification


def box_mask(source: Source, box: Box) -> np.ndarray:
    mask = np.zeros((source.height, source.width), np.bool_)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def plan(mask: np.ndarray, margin_px: int = 12) -> FocusCrop:
    return focus.plan_crop(mask, margin_px=margin_px, grid_px=8, pixels=64 * 64)


def refine(
    data: bytes,
    boxes: Sequence[Box],
    settings: WriteSettings | None = None,
    *,
    rng: np.random.Generator | None = None,
    confine: bool = False,
    policy: str = "full",
    mark: str = "none",
) -> ChainResult:
    """Every box is replaced by noise that never equals the source, then encoded and verified."""
    settings = settings or WriteSettings()
    rng = rng or np.random.default_rng(0)
    source = read.decode(data, name="test", limits=LIMITS, matte=settings.matte)
    canvas = paste.Canvas.from_source(source)
    for box in boxes:
        mask = box_mask(source, box)
        crop = plan(mask)
        within = focus.crop_of(place.permitted(source, mask), crop.crop) if confine else None
        blend = paste.blend_mask(focus.crop_of(mask, crop.crop), PasteSettings(blend=policy), within)
        width, height = crop.size
        patch = np.clip(1 - focus.view(canvas.rgb, crop) / 255 + rng.normal(0, 0.1, (height, width, 3)), 0, 1)
        canvas.paste(crop, focus.unview(patch.astype(np.float32), crop), blend)
    encoded = write.encode(source, canvas, settings, confined=confine)
    marked = provenance.is_marked(source, canvas.samples, ProvenanceSettings(mark=mark))
    encoded = provenance.marked(encoded, source.name) if marked else encoded
    regions = [(box_mask(source, box), "mask") for box in boxes]
    rules = Rules.of(PasteSettings(confine="region" if confine else "none"), settings)
    proof = verify.verify(source, encoded.data, regions, rules, allow_unchanged=confine, marked=marked)
    return ChainResult(source, canvas, encoded, regions, rules, proof)


def near(boxes: list[tuple[int, int, int, int]], width: int, height: int, reach: int = 8) -> np.ndarray:
    """Pixels within the blend's reach of a box (dilation 7, kernel 11: 8 px, Chebyshev)."""
    mask = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        mask[max(0, y0 - reach) : y1 + reach, max(0, x0 - reach) : x1 + reach] = True
    return mask


def jpeg_allowance(support: np.ndarray, mcu: tuple[int, int], bleed: str) -> np.ndarray:
    """Pixels of MCUs that touch `support`, and 1 px beside them along the subsampled axes (`bleed: edge`)."""
    height, width = support.shape
    allowed = np.zeros_like(support)
    for y in range(0, height, mcu[1]):
        for x in range(0, width, mcu[0]):
            if support[y : y + mcu[1], x : x + mcu[0]].any():
                across, down = (mcu[0] > 8, mcu[1] > 8) if bleed == "edge" else (False, False)
                allowed[max(0, y - down) : y + mcu[1] + down, max(0, x - across) : x + mcu[0] + across] = True
    return allowed
