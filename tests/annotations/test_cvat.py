"""CVAT XML for images in."""

import math
import sys

import numpy as np
import pytest

from refine_ops.annotations.run_lengths import runs_in
from refine_ops.annotations.shapes import Outline, filled
from refine_ops.errors import JobError
from tests.support.annotated import imported, marked, photo

SIZE = (64, 48)


def document(*shapes: str, name: str = "a.jpg", size: tuple[int, int] = SIZE) -> str:
    image = f'<image id="0" name="{name}" width="{size[0]}" height="{size[1]}">{"".join(shapes)}</image>'
    return f'<?xml version="1.0"?><annotations><version>1.1</version><meta/>{image}</annotations>'


def box(x0: float, y0: float, x1: float, y1: float, **more: object) -> str:
    said = "".join(f' {k}="{v}"' for k, v in more.items())
    return f'<box label="logo" occluded="0" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}" z_order="0"{said}></box>'


@pytest.fixture(autouse=True)
def _photo(tmp_path) -> None:
    photo(tmp_path / "photos" / "a.jpg", SIZE)


def test_rotated_rectangles_turn_clockwise_around_their_centre(tmp_path) -> None:
    """cvat#4745."""
    read = imported(
        tmp_path,
        "cvat",
        document(box(10, 20, 30, 26), box(10, 20, 30, 26, rotation="90.00"), box(10, 20, 34, 30, rotation=30)),
    )
    assert [region.box for region in read.item.regions[:2]] == [(10, 20, 30, 26), (17, 13, 23, 33)]
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    corners = [(-12, -5), (12, -5), (12, 5), (-12, 5)]
    expected = np.array([[22 + x * cos - y * sin, 25 + x * sin + y * cos] for x, y in corners])
    np.testing.assert_array_equal(marked(read.item.regions[2], SIZE), filled(Outline((expected,)), SIZE))


def test_polygons_ellipses_and_masks(tmp_path) -> None:
    part = np.zeros((9, 12), bool)
    part[2:8, 3:11] = True
    part[4, 5] = False
    counts = ", ".join(map(str, runs_in(part, "C").tolist()))
    read = imported(
        tmp_path,
        "cvat",
        document(
            f'<mask label="m" source="manual" rle="{counts}" left="20" top="30" width="12" height="9" z_order="0"/>',
            '<polygon label="p" points="10.00,10.00;40.00,10.00;10.00,40.00" z_order="0"/>',
            '<ellipse label="e" cx="32" cy="24" rx="16" ry="12" rotation="0"/>',
        ),
    )
    mask, polygon, oval = (marked(region, SIZE) for region in read.item.regions)
    expected = np.zeros((48, 64), bool)
    expected[30:39, 20:32] = part
    np.testing.assert_array_equal(mask, expected)
    assert polygon.sum() == pytest.approx(450, abs=20)
    assert oval.sum() == pytest.approx(math.pi * 16 * 12, rel=0.03)


def test_a_mask_that_reaches_outside_is_clipped_and_counted(tmp_path) -> None:
    read = imported(tmp_path, "cvat", document('<mask rle="0, 81" left="60" top="44" width="9" height="9"/>'))
    expected = np.zeros((48, 64), bool)
    expected[44:, 60:] = True
    np.testing.assert_array_equal(marked(read.region, SIZE), expected)
    assert read.found.clipped == 1


def test_exif_orientation(tmp_path) -> None:
    photo(tmp_path / "photos" / "a.jpg", SIZE, 6)
    assert imported(tmp_path, "cvat", document(box(2, 50, 12, 60), size=(48, 64))).region.box == (2, 50, 12, 60)


def test_what_cannot_be_read_is_listed_with_its_place(tmp_path) -> None:
    bad = [
        ('<polyline label="l" points="1,2;3,4"/>', "shape.none"),
        ('<points label="l" points="1,2"/>', "shape.none"),
        ('<tag label="l"/>', "shape.none"),
        ('<skeleton label="s"><points label="1" points="1,1"/></skeleton>', "shape.none"),
        ('<polygon label="l" points="1,2;3"/>', "outline.invalid"),
        ('<mask label="m" rle="1, 2" left="0" top="0" width="9" height="9"/>', "rle.invalid"),
        ('<mask label="m" rle="0, 81" left="64" top="0" width="9" height="9"/>', "mask.empty"),
        ('<mask label="m" rle="x" left="0" top="0" width="9" height="9"/>', "rle.invalid"),
        ('<mask label="m" rle="1" left="0" top="0" width="999999" height="999999"/>', "mask.too_large"),
        (box(3, 3, "nan", 9), "number.invalid"),  # type: ignore[arg-type]
        (box(9, 3, 3, 9), "box.inverted"),
    ]
    read = imported(tmp_path, "cvat", document(box(3, 3, 9, 9), *(shape for shape, _ in bad)))
    assert len(read.item.regions) == 1
    assert read.reasons() == {f"image[1]/*[{at}]": reason for at, (_, reason) in enumerate(bad, 2)}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<annotations>",
        "<annotations/>",
        "<annotations><track id='0'><box/></track></annotations>",
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations><image name="&x;"/></annotations>',
        '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><annotations><image name="&b;"/></annotations>',
    ],
)
def test_what_is_no_file_of_cvats_is_refused(content: str, tmp_path) -> None:
    with pytest.raises(JobError, match="annotation file"):
        imported(tmp_path, "cvat", content)


def test_without_the_extra_it_says_which_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "defusedxml.common", None)
    with pytest.raises(JobError, match=r"pip install 'refine-ops\[annotations\]'"):
        imported(tmp_path, "cvat", document(box(3, 3, 9, 9)))
