"""When a region is called softer than before: shares of photo regions flagged, by what was done to them.

Last run: 2026-11-27, `pytest tests/report/test_softer.py -s`, 60 regions of each kind; the figures stand in the
report's chapter.
"""

from collections.abc import Callable

import cv2
import numpy as np

from refine_ops.image.paste import blend_mask
from refine_ops.judge.evidence.detail import measure_detail
from refine_ops.judge.evidence.likeness import grey_of
from refine_ops.records import U8Image
from refine_ops.report.config import Thresholds
from refine_ops.report.findings import is_softer
from tests.support.made_runs import MadeEdit, photo_edit

COUNT = 60


def _pasted(source: U8Image, patch: U8Image, edit: MadeEdit) -> U8Image:
    blend = blend_mask(edit.mask)[..., None]
    return np.rint(source * (1 - blend) + patch * blend).astype(np.uint8)


def _blurred(sigma_px: float) -> Callable[[MadeEdit], tuple[U8Image, U8Image]]:
    return lambda e: (e.sharp, _pasted(e.sharp, cv2.GaussianBlur(e.sharp, (0, 0), sigma_px), e))


def _denoised(levels: float) -> Callable[[MadeEdit], tuple[U8Image, U8Image]]:
    def make(edit: MadeEdit) -> tuple[U8Image, U8Image]:
        noise = np.random.default_rng(int(edit.mask.sum())).normal(0, levels, edit.sharp.shape)
        noisy = np.clip(edit.sharp + noise, 0, 255).astype(np.uint8)
        return noisy, _pasted(noisy, edit.sharp, edit)

    return make


def _unblocked(edit: MadeEdit) -> tuple[U8Image, U8Image]:
    coded = cv2.imdecode(cv2.imencode(".jpg", edit.sharp, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], cv2.IMREAD_COLOR)
    return coded, _pasted(coded, edit.sharp, edit)


KINDS: dict[str, tuple[Callable[[MadeEdit], tuple[U8Image, U8Image]], float, float]] = {
    "restored": (lambda e: (e.before, e.after), 0.0, 0.0),
    "moved by 2 px": (lambda e: (e.sharp, _pasted(e.sharp, np.roll(e.sharp, 2, axis=1), e)), 0.0, 0.05),
    "JPEG of quality 20 restored": (_unblocked, 0.0, 0.12),
    "noise of 8 levels removed": (_denoised(8), 0.0, 0.15),
    "noise of 15 levels removed": (_denoised(15), 0.0, 0.6),
    "blurred by 1.5 px": (_blurred(1.5), 0.75, 1.0),
    "blurred by 2.5 px": (_blurred(2.5), 0.88, 1.0),
    "blurred by 5 px": (_blurred(5), 0.92, 1.0),
}
"""What is done, and the least and largest share flagged: heavy noise is told from texture only so far."""


def test_smeared_regions_are_softer_and_restored_ones_are_not() -> None:
    limits, shares = Thresholds(), {}
    edits = [photo_edit(seed) for seed in range(COUNT)]
    for name, (make, _, _) in KINDS.items():
        flagged = 0
        for edit in edits:
            before, after = make(edit)
            detail = measure_detail(grey_of(before), grey_of(after), edit.mask)
            flagged += is_softer({"detail_lost": detail.lost, "detail": detail.gained}, limits)
        shares[name] = flagged / COUNT
        print(f"{name:30} {shares[name]:6.1%}")
    assert {n: s for n, s in shares.items() if not KINDS[n][1] <= s <= KINDS[n][2]} == {}
