"""What the model left alone comes back as it was; what it changed is not mixed with the old."""

import cv2
import numpy as np
import pytest

from refine_ops.chain import Refinement, finish_shown
from refine_ops.config import AlignSettings, FocusSettings, RefineSettings
from refine_ops.image.read import decode
from refine_ops.opened import open_item
from refine_ops.records import Item, Patch, Region
from tests.support.made_files import png


class Sizes:
    grid_px = 8
    reference = "as_given"
    tile_zoom = 0.0

    def __init__(self, focus_pixels: int) -> None:
        self.focus_pixels = focus_pixels


def codec(view: np.ndarray) -> np.ndarray:
    """An autoencoder's kind of loss: fine detail, and a little tone."""
    return np.clip(cv2.GaussianBlur(view, (0, 0), 1.2).astype(np.float32) / 255 * 0.97 + 0.01, 0, 1)


def refined(
    image: np.ndarray, side: int, focus_pixels: int, change: object = None, **align: float
) -> tuple[np.ndarray, float]:
    """The picture after a refiner that answers `change(codec(view))`, and the zoom of its crop."""
    height, width = image.shape[:2]
    x, y = (width - side) // 2, (height - side) // 2
    item = Item("a", "i", "i", (Region("r", "p", box=(x, y, x + side, y + side)),), row=0)
    settings = RefineSettings(
        align=AlignSettings(**align), focus=FocusSettings(margin=max(12, side // 4), margin_unit="native")
    )
    settings = settings.model_copy(update={"write": settings.write.model_copy(update={"allow_unchanged": True})})
    refinement = Refinement(item, open_item(item, {"i": png(image)}, settings), settings, Sizes(focus_pixels))
    seen = refinement.conditioning().image
    back = codec(seen)
    patch = back if change is None else change(back)
    refinement.absorb(Patch(patch, np.ones(seen.shape[:2], bool), batch_size=1, roundtrip=back))
    done = finish_shown(refinement)
    x0, _, x1, _ = done.regions[0].crop
    return decode(done.data, name="a", limits=settings.limits).rgb, done.regions[0].model_width / (x1 - x0)


@pytest.mark.parametrize(
    ("side", "focus_pixels", "zoom"), [(300, 48 * 48, 0.1), (300, 128 * 128, 0.3), (120, 184**2, 1.0), (24, 192**2, 4)]
)
def test_a_refiner_that_changes_nothing_gives_the_source_back(
    photo: np.ndarray, side: int, focus_pixels: int, zoom: float
) -> None:
    kept, found = refined(photo, side, focus_pixels)
    assert found == pytest.approx(zoom, rel=0.2)
    assert cv2.absdiff(kept, photo).max() <= 1
    lost, _ = refined(photo, side, focus_pixels, keep_levels=0)
    assert cv2.absdiff(lost, photo).max() > 20


def test_where_the_model_changed_much_nothing_of_the_old_is_mixed_in(photo: np.ndarray) -> None:
    def inverted(back: np.ndarray) -> np.ndarray:
        return np.where(back.mean(axis=2, keepdims=True) > 0.5, back * 0.3, back * 0.3 + 0.6).astype(np.float32)

    kept, _ = refined(photo, 120, 184**2, inverted)
    plain, _ = refined(photo, 120, 184**2, inverted, keep_levels=0)
    centre = np.s_[200:312, 200:312]
    assert np.array_equal(kept[centre], plain[centre])


def test_a_change_in_one_place_keeps_the_detail_of_the_rest(photo: np.ndarray) -> None:
    def spotted(back: np.ndarray) -> np.ndarray:
        spot = back.copy()
        middle = spot.shape[0] // 2
        spot[middle - 6 : middle + 6, middle - 6 : middle + 6] = (1, 0, 0)
        return spot

    kept, _ = refined(photo, 300, 128 * 128, spotted)
    plain, _ = refined(photo, 300, 128 * 128, spotted, keep_levels=0)
    far = np.ones(photo.shape[:2], bool)
    far[196:316, 196:316] = False
    assert cv2.absdiff(kept, photo)[far].max() <= 1
    assert cv2.absdiff(plain, photo)[far].max() > 20
    assert (kept[246:266, 246:266, 0] > 200).all()
    assert (kept[246:266, 246:266, 1] < 60).all()


def test_a_drift_that_is_undone_is_no_change(photo: np.ndarray) -> None:
    """Moved by 1.5 model pixels and darker: aligned, most of it is what it was, and its detail is kept."""

    def drifted(back: np.ndarray) -> np.ndarray:
        move = np.array([[1, 0, 1.5], [0, 1, -1.0]], np.float32)
        size = back.shape[1::-1]
        return np.clip(cv2.warpAffine(back, move, size, borderMode=cv2.BORDER_REPLICATE) * 0.94, 0, 1)

    box = np.s_[106:406, 106:406]
    errors = [
        float(cv2.absdiff(refined(photo, 300, 256 * 256, drifted, keep_levels=levels)[0], photo)[box].mean())
        for levels in (0, 24)
    ]
    assert errors[1] < 0.6 * errors[0]
