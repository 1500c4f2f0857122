"""Regions larger than the model's picture: tiles cover them, see each other, and leave no seam.

The region of 4000 px is slow; last run: 2026-11-27, 2ee244a, two shared cores: passed in 75 s.
"""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine_ops.chain import Finished, Refinement, refine_image
from refine_ops.config import FocusSettings, RefineSettings, WriteSettings
from refine_ops.image.patch.tiles import plan_tiles
from refine_ops.image.read import decode
from refine_ops.judge.evidence.seam import VISIBLE_DE, measure_seam
from refine_ops.model.transfer import TransferRefiner
from refine_ops.opened import memory_needed, open_item
from refine_ops.records import Conditioning, Item, Patch, Region
from tests.support.made_files import jpeg, png


class Known:
    """A refiner of 128 x 128 px that answers `change(view)`; remembers what it was given."""

    grid_px, reference = 8, "as_given"

    def __init__(self, change: object = None, side: int = 128, tile_zoom: float = 1.0) -> None:
        self.change, self.given, self.focus_pixels, self.tile_zoom = change, [], side**2, tile_zoom

    def batch_size(self, bucket: object) -> int:
        return 1

    def prepare(self, item: Conditioning) -> Conditioning:
        self.given.append(item)
        return item

    def refine_prepared(self, batch: list[Conditioning]) -> list[Patch]:
        return [self._patch(item) for item in batch]

    def _patch(self, item: Conditioning) -> Patch:
        view = item.image.astype(np.float32) / np.float32(255)
        pixels = view if self.change is None else self.change(view, item)
        return Patch(pixels.astype(np.float32), np.ones(item.mask.shape, bool), 1)


SETTINGS = RefineSettings(
    focus=FocusSettings(margin=32, margin_unit="native"), write=WriteSettings(allow_unchanged=True)
)


def refined(image: np.ndarray, region: Region, refiner: Known, settings: RefineSettings = SETTINGS) -> Finished:
    return refine_image(Item("a", "i", "i", (region,), row=0), {"i": png(image)}, refiner, settings)


def pixels(finished: Finished) -> np.ndarray:
    return decode(finished.data, name="a", limits=SETTINGS.limits).rgb


@given(
    x=st.integers(0, 3000),
    y=st.integers(0, 300),
    width=st.integers(1, 2000),
    height=st.integers(1, 900),
    zoom=st.sampled_from([0.5, 0.7, 1.0, 1.7]),
)
def test_tiles_cover_the_box_at_their_zoom(x: int, y: int, width: int, height: int, zoom: float) -> None:
    image, box = (5000, 1200), (x, y, x + width, y + height)
    tiles = plan_tiles(box, image, grid_px=8, pixels=128 * 128, zoom=zoom)
    covered = np.zeros((image[1], image[0]), bool)
    for tile in tiles:
        (x0, y0, x1, y1), (left, top, right, bottom) = tile.crop.crop, tile.crop.pad
        wx0, wy0, wx1, wy1 = tile.window
        assert x0 <= wx0
        assert y0 <= wy0
        assert wx1 <= x1
        assert wy1 <= y1
        across, down = left + x1 - x0 + right, top + y1 - y0 + bottom
        assert tile.crop.size[0] * down == tile.crop.size[1] * across
        assert zoom <= tile.crop.size[0] / across < 1.2 * zoom
        assert np.array_equal(covered[wy0:wy1, wx0 : wx0 + tile.fade[0]].any(), tile.fade[0] > 0)
        covered[wy0:wy1, wx0:wx1] = True
    assert covered[y : y + height, x : x + width].all()
    assert covered.sum() == width * height


@pytest.mark.parametrize("zoom", [0.3, 0.7, 1.0, 2.0, 4.0])
def test_a_refiner_that_changes_nothing_gives_the_source_back(photo: np.ndarray, zoom: float) -> None:
    """Each tile loses detail at its zoom; what was lost is kept from the source."""
    refiner = Known(lambda view, item: cv2.GaussianBlur(view, (0, 0), 1.2), tile_zoom=zoom)
    settings = SETTINGS.model_copy(update={"focus": SETTINGS.focus.model_copy(update={"tile_zoom": zoom})})
    refiner._patch = lambda item: Patch(  # type: ignore[method-assign]
        blurred := cv2.GaussianBlur(item.image.astype(np.float32) / np.float32(255), (0, 0), 1.2),
        np.ones(item.mask.shape, bool),
        1,
        roundtrip=blurred,
    )
    finished = refined(photo, Region("r", "p", box=(40, 60, 470, 420)), refiner, settings)
    assert finished.regions[0].tiles == len(refiner.given) > 1
    assert cv2.absdiff(pixels(finished), photo).max() <= 1


def test_a_region_that_is_seen_as_large_as_it_should_is_one_tile(photo: np.ndarray) -> None:
    small = Region("r", "p", box=(200, 200, 250, 240))
    refiner = Known()
    refined(photo, small, refiner)
    assert len(refiner.given) == 1
    large, none = Region("r", "p", box=(100, 100, 400, 400)), Known()
    off = SETTINGS.model_copy(update={"focus": SETTINGS.focus.model_copy(update={"tiles": "none"})})
    finished = refined(photo, large, none, off)
    assert (len(none.given), finished.regions[0].tiles) == (1, 1)


def test_a_tile_sees_what_the_ones_before_it_made_and_is_asked_for_the_rest(photo: np.ndarray) -> None:
    refiner = Known(lambda view, item: np.where(item.mask[..., None], np.float32((1, 0, 0)), view))
    plain = SETTINGS.model_copy(update={"align": SETTINGS.align.model_copy(update={"tone": False, "geometry": False})})
    finished = refined(photo, Region("r", "p", box=(100, 100, 400, 300)), refiner, plain)
    second = refiner.given[1]
    red = (second.image[..., 0] > 240) & (second.image[..., 1] < 16)
    assert red[:, :20].any()
    assert not red[:, -20:].any()
    assert not (second.mask & red).any()
    assert (pixels(finished)[100:300, 100:400] == (255, 0, 0)).all()
    assert len({item.seed for item in refiner.given}) == len(refiner.given)


def test_seeds_come_from_the_place_alone(photo: np.ndarray) -> None:
    def seeds(region: Region) -> list[int]:
        refiner = Known()
        refined(photo, region, refiner)
        return [item.seed for item in refiner.given]

    box = (100, 100, 400, 300)
    assert seeds(Region("r", "p", box=box)) == seeds(Region("r", "another prompt", box=box))
    assert not set(seeds(Region("r", "p", box=box))) & set(seeds(Region("other", "p", box=box)))
    assert seeds(Region("r", "p", box=box, seed=7)) == seeds(Region("other", "p", box=box, seed=7))


def test_a_thin_slanted_region_takes_only_the_tiles_it_touches() -> None:
    image = np.full((1200, 1200, 3), 120, np.uint8)
    mask = cv2.line(np.zeros((1200, 1200), np.uint8), (50, 50), (1150, 1150), 255, 9)
    item = Item("a", "i", "i", (Region("r", "p", mask="m"),), row=0)
    refiner = Known()
    refine_image(item, {"i": png(image), "m": png(mask[..., None])}, refiner, SETTINGS)
    assert 12 < len(refiner.given) < 60
    assert all(given.mask.any() for given in refiner.given)


@pytest.mark.parametrize("kind", [png, jpeg])
def test_nothing_else_changes(photo: np.ndarray, kind: object) -> None:
    refiner = Known(lambda view, item: np.clip(view * 0.8 + 0.1, 0, 1))
    item = Item("a", "i", "i", (Region("r", "p", box=(60, 60, 460, 330)),), row=0)
    finished = refine_image(item, {"i": kind(photo)}, refiner, SETTINGS)
    assert finished.regions[0].tiles > 4
    assert finished.verification.changed_outside_px == 0
    assert finished.verification.changed_px > 0.5 * 400 * 270


def test_each_tile_has_its_own_part_of_a_reference_that_is_found_once(photo: np.ndarray) -> None:
    """Turned, larger and in another light; at the model's 96 px a region of 240 px would lose what it shows."""
    box = (150, 60, 390, 240)
    damaged = photo.copy()
    x0, y0, x1, y1 = box
    damaged[y0:y1, x0:x1] = cv2.GaussianBlur(photo, (0, 0), 3)[y0:y1, x0:x1]
    turn = cv2.getRotationMatrix2D((270, 150), 8, 1.3) + np.float32([[0, 0, 40], [0, 0, 60]])
    reference = np.rint(255 * (cv2.warpAffine(photo, turn, (600, 560)) / 255) ** 0.9).astype(np.uint8)
    item = Item("a", "i", "i", (Region("r", "p", box=box, reference="f"),), row=0)
    files = {"i": png(damaged), "f": png(reference)}
    gains = []
    for tiles in ("auto", "none"):
        focus = FocusSettings(margin=32, margin_unit="native", focus_pixels=96**2, tiles=tiles)
        finished = refine_image(item, files, TransferRefiner(), SETTINGS.model_copy(update={"focus": focus}))
        agreement = finished.regions[0].agreement
        assert agreement is not None
        assert agreement.verdict == "fits"
        corners = np.float64([[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]])
        back = cv2.perspectiveTransform(cv2.transform(corners, turn), np.reshape(agreement.pose, (3, 3)))
        assert np.abs(back - corners).max() < 1.5, "the pose leads from the reference to the image"
        wrong = [p[y0:y1, x0:x1] - photo[y0:y1, x0:x1].astype(float) for p in (damaged, pixels(finished))]
        before, after = (np.square(difference).mean() for difference in wrong)
        gains.append(10 * np.log10(before / after))
    assert gains[0] > 5
    assert gains[0] > gains[1] + 4


def large(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture with detail everywhere, and the same with its middle blurred."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    sharp = 120 + 50 * np.sin(columns / 2.1) * np.cos(rows / 2.7) + 30 * np.sin(columns / 97 + rows / 141)
    sharp = np.clip(sharp[..., None] + rng.normal(0, 4, (side, side, 1)) + np.float32((8, 0, -8)), 0, 255)
    return sharp.astype(np.uint8), cv2.GaussianBlur(sharp, (0, 0), 2).astype(np.uint8)


def sharpened(wanders: bool = False) -> object:
    """A refiner that restores detail; darker or brighter by what its seed says, as a model's tone wanders."""

    def change(view: np.ndarray, item: Conditioning) -> np.ndarray:
        restored = view + 2.5 * (view - cv2.GaussianBlur(view, (0, 0), 2))
        wander = np.float32((item.seed % 1000) / 1000 - 0.5) * (0.06 if wanders else 0)
        return np.clip(np.where(item.mask[..., None], restored, view) + wander, 0, 1)

    return change


@pytest.mark.slow
def test_a_region_of_4000_px_shows_no_seam_and_as_much_detail_as_in_one_look() -> None:
    _, soft = large(4300)
    box = (150, 150, 4150, 4150)
    region = Region("r", "p", box=box)
    tiled = pixels(refined(soft, region, Known(sharpened(wanders=True), side=1024, tile_zoom=1.0)))
    native = pixels(refined(soft, region, Known(sharpened(), side=4300, tile_zoom=0.0)))
    inner = np.s_[300:4000, 300:4000]
    detail = [float(cv2.Laplacian(p[inner], cv2.CV_32F).std()) for p in (tiled, native)]
    assert detail[0] == pytest.approx(detail[1], rel=0.02)
    for window in tile_windows(box, (4300, 4300), 1024):
        mask = np.zeros(soft.shape[:2], bool)
        mask[window[1] : window[3], window[0] : window[2]] = True
        seam = measure_seam(native, tiled, mask, SETTINGS.paste.reach_px)
        assert seam is not None
        assert seam.de < VISIBLE_DE


def tile_windows(box: tuple[int, int, int, int], image: tuple[int, int], side: int) -> list[tuple[int, int, int, int]]:
    return [tile.window for tile in plan_tiles(box, image, grid_px=8, pixels=side**2, zoom=1.0)]


@pytest.mark.parametrize("tiles", ["auto", "none"])
def test_a_thin_long_image_needs_no_more_memory_than_a_square_one(tiles: str) -> None:
    """Padded whole to the model's thinnest picture, 4:1, these 192,000 px would be 144 million."""
    settings = SETTINGS.model_copy(update={"focus": SETTINGS.focus.model_copy(update={"tiles": tiles})})
    peaks = []
    for height, width in ((8, 24_000), (438, 438)):
        image = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
        item = Item("a", "i", "i", (Region("r", "p", box=(0, 0, width, height)),), row=0)
        files, refiner = {"i": png(image)}, Known()
        opened = open_item(item, files, settings)
        tracemalloc.start()
        refinement = Refinement(item, opened, settings, refiner)
        given = refinement.conditioning()
        assert tracemalloc.get_traced_memory()[1] < memory_needed(item, files, settings.limits)
        refinement.absorb(refiner.refine_prepared([given])[0])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 1.2 * peaks[1]
