"""The contact sheet shows all regions, and what was marked rather than its box."""

from io import BytesIO

import numpy as np
from PIL import Image

from refine_ops.report.page.contact_sheet import SheetItem, contact_sheet


def _sheet(masks: dict[str, np.ndarray], after: np.ndarray) -> np.ndarray:
    before = np.full((200, 300, 3), 90, np.uint8)
    return np.asarray(
        Image.open(BytesIO(contact_sheet([SheetItem.of("运动鞋 'x'", before, after, masks.items())]))).convert("RGB")
    )


def _mask(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((200, 300), np.bool_)
    mask[rows, columns] = True
    return mask


def test_every_region_is_shown_before_and_after() -> None:
    after = np.full((200, 300, 3), 90, np.uint8)
    colours = {"a": (10, 200, 10), "b": (10, 10, 200), "c": (200, 200, 10)}
    masks = {name: _mask(np.s_[20:60], np.s_[20 + 90 * i : 60 + 90 * i]) for i, name in enumerate(colours)}
    for name, colour in colours.items():
        after[masks[name]] = colour
    sheet = _sheet(masks, after)
    for colour in colours.values():
        assert (np.abs(sheet.astype(int) - colour).max(axis=2) < 6).sum() > 200 * 200
    assert len(_sheet(dict(list(masks.items())[:1]), after)) < 0.5 * len(sheet)


def test_the_mask_is_marked_and_not_its_box() -> None:
    ring = _mask(np.s_[40:160], np.s_[90:210]) & ~_mask(np.s_[70:130], np.s_[120:180])
    sheet = _sheet({"ring": ring}, np.full((200, 300, 3), 90, np.uint8))
    overview = sheet[:, :330].astype(int)
    red = overview[..., 0] - overview[..., 1] > 40
    ys, xs = np.nonzero(red)
    assert red.mean() > 0.1
    assert not red[(ys.min() + ys.max()) // 2, (xs.min() + xs.max()) // 2], "the hole of the ring is not marked"


def test_many_regions_are_counted_where_they_are_not_zoomed() -> None:
    masks = {str(i): _mask(np.s_[10:20], np.s_[10 + 25 * i : 20 + 25 * i]) for i in range(11)}
    sheet = _sheet(masks, np.full((200, 300, 3), 90, np.uint8))
    assert len(sheet) < 7 * 400
