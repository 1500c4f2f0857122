"""Label Studio's JSON in: per cent, turned rectangles, its brush, several annotators."""

import base64
import math

import cv2
import numpy as np
import pytest

from refine_ops.annotations.run_lengths import brush_data
from refine_ops.annotations.shapes import Outline, filled
from refine_ops.errors import JobError
from tests.support.annotated import imported, marked, photo

SIZE = (64, 48)


def result(kind: str, value: dict, label: str = "logo", **more: object) -> dict:
    shared = {"original_width": 64, "original_height": 48, "image_rotation": 0, "to_name": "image"}
    return {"id": "r1", "type": kind, "from_name": "label", "value": {**value, kind: [label]}, **shared, **more}


def box(x: float, y: float, w: float, h: float, rotation: float = 0, **more: object) -> dict:
    value = {"x": x / 0.64, "y": y / 0.48, "width": w / 0.64, "height": h / 0.48, "rotation": rotation}
    return result("rectanglelabels", value, **more)


def task(*results: dict, image: str = "a.jpg", **more: object) -> dict:
    return {"id": 1, "data": {"image": image}, "annotations": [{"id": 5, "result": list(results)}], **more}


@pytest.fixture(autouse=True)
def _photo(tmp_path) -> None:
    photo(tmp_path / "photos" / "a.jpg", SIZE)


def test_label_studio_percentages(tmp_path) -> None:
    read = imported(tmp_path, "label-studio", [task(box(7, 5, 13, 11))])
    assert (read.region.box, read.region.prompt, read.region.region_id) == ((7, 5, 20, 16), "Refine the logo", "r1")


def test_every_box_comes_back_from_per_cent_exactly(tmp_path) -> None:
    rng = np.random.default_rng(7)
    width, height = 637, 421
    photo(tmp_path / "photos" / "odd.png", (width, height))
    corners = [(*np.sort(rng.integers(0, width, 2)), *np.sort(rng.integers(0, height, 2))) for _ in range(250)]
    boxes = [(int(x0), int(y0), int(x1) + 1, int(y1) + 1) for x0, x1, y0, y1 in corners]
    results = []
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        value = {"x": x0 / width * 100, "y": y0 / height * 100}
        value |= {"width": (x1 - x0) / width * 100, "height": (y1 - y0) / height * 100}
        sized = {"id": str(index), "original_width": width, "original_height": height}
        results.append({**result("rectanglelabels", value), **sized})
    read = imported(tmp_path, "label-studio", [task(*results, image="odd.png")])
    assert [region.box for region in read.item.regions] == boxes


def test_rotated_rectangles_turn_clockwise_around_their_left_upper_corner(tmp_path) -> None:
    """Width and height are per cent of different lengths: turned in pixels, not in per cent."""
    quarter, tilted = box(40, 10, 12, 6, 90), box(20, 10, 24, 12, 30, id="r2")
    read = imported(tmp_path, "label-studio", [task(quarter, tilted)])
    assert read.item.regions[0].box == (34, 10, 40, 22)
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    corners = [(0, 0), (24, 0), (24, 12), (0, 12)]
    expected = np.array([[20 + x * cos - y * sin, 10 + x * sin + y * cos] for x, y in corners])
    np.testing.assert_array_equal(marked(read.item.regions[1], SIZE), filled(Outline((expected,)), SIZE))


def test_polygons_brushes_ellipses_and_bitmasks(tmp_path) -> None:
    mask = np.zeros((48, 64), bool)
    mask[5:20, 8:12] = mask[30:, 40:] = True
    layer = np.dstack([np.zeros((48, 64, 3), np.uint8), mask.astype(np.uint8) * 255])
    url = "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", layer)[1].tobytes()).decode()
    points = [[10 / 0.64, 10 / 0.48], [40 / 0.64, 10 / 0.48], [10 / 0.64, 40 / 0.48]]
    read = imported(
        tmp_path,
        "label-studio",
        [
            task(
                result("brushlabels", {"format": "rle", "rle": brush_data(mask)}, id="brush"),
                result("bitmask", {"imageDataURL": url}, id="bits"),
                result("polygonlabels", {"points": points, "closed": True}, id="polygon"),
                result("ellipselabels", {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0}, id="ellipse"),
            )
        ],
    )
    found = {region.region_id: marked(region, SIZE) for region in read.item.regions}
    np.testing.assert_array_equal(found["brush"], mask)
    np.testing.assert_array_equal(found["bits"], mask)
    assert found["polygon"].sum() == pytest.approx(450, abs=20)
    assert found["ellipse"].sum() == pytest.approx(math.pi * 16 * 12, rel=0.03)


def test_exif_orientation(tmp_path) -> None:
    """Its users see photos turned, and its sizes are those of the turned photo."""
    photo(tmp_path / "photos" / "a.jpg", SIZE, 6)
    value = {"x": 25, "y": 50, "width": 25, "height": 25, "rotation": 0}
    seen = result("rectanglelabels", value, original_width=48, original_height=64)
    assert imported(tmp_path, "label-studio", [task(seen)]).region.box == (12, 32, 24, 48)


def test_a_size_that_is_not_turned_says_that_the_photo_was_not(tmp_path) -> None:
    photo(tmp_path / "photos" / "a.jpg", SIZE, 6)
    assert imported(tmp_path, "label-studio", [task(box(50, 2, 10, 10))]).region.box == (36, 50, 46, 60)


def test_two_annotators_on_one_image(tmp_path) -> None:
    two = task(box(7, 5, 13, 11))
    two["annotations"] = [
        {"id": 5, "completed_by": 1, "result": [box(7, 5, 13, 11)], "updated_at": "2026-05-02T08:00:00Z"},
        {"id": 4, "completed_by": {"email": "b@c.d"}, "result": [box(8, 5, 13, 11)], "updated_at": "2026-05-03T08:00Z"},
        {"id": 6, "completed_by": 3, "result": [box(9, 9, 9, 9)], "was_cancelled": True},
    ]
    read = imported(tmp_path, "label-studio", [two])
    assert [(r.region_id, r.box) for r in read.item.regions] == [
        ("1/r1", (7, 5, 20, 16)),
        ("b@c.d/r1", (8, 5, 21, 16)),
    ]
    assert read.found.counts == {"annotators.several": 1, "annotation.cancelled": 1}
    latest = imported(tmp_path, "label-studio", [two], annotators="latest", out="b.jsonl")
    assert (latest.region.region_id, latest.region.box) == ("r1", (8, 5, 21, 16))


def test_the_short_form_and_one_annotation_per_file_are_read(tmp_path) -> None:
    short = {"image": "a.jpg", "id": 3, "annotator": 1, "annotation_id": 8}
    drawn = {"x": 25, "y": 50, "width": 25, "height": 25, "rotation": 0, "original_width": 64, "original_height": 48}
    read = imported(tmp_path, "label-studio", [{**short, "label": [{**drawn, "rectanglelabels": ["seam"]}]}])
    assert (read.region.box, read.region.prompt) == ((16, 24, 32, 36), "Refine the seam")
    stored = {"id": 7, "result": [box(7, 5, 13, 11)], "task": {"id": 1, "data": {"image": "a.jpg"}}}
    assert imported(tmp_path, "label-studio", stored, out="b.jsonl").region.box == (7, 5, 20, 16)


def test_a_label_and_a_text_of_their_own_belong_to_the_shape_with_their_id(tmp_path) -> None:
    shape = box(7, 5, 13, 11)
    shape["type"], shape["value"] = "rectangle", {k: v for k, v in shape["value"].items() if k != "rectanglelabels"}
    label = {**shape, "type": "labels", "value": {**shape["value"], "labels": ["dial"]}}
    said = {**shape, "type": "textarea", "from_name": "prompt", "value": {"text": ["Refine the hands"]}}
    assert imported(tmp_path, "label-studio", [task(shape, label)]).region.prompt == "Refine the dial"
    read = imported(tmp_path, "label-studio", [task(shape, label, said)], out="b.jsonl")
    assert read.region.prompt == "Refine the hands"
    assert not read.found.counts


def test_what_cannot_be_read_is_listed_with_its_place(tmp_path) -> None:
    bad = [
        (result("keypointlabels", {"x": 3, "y": 3, "width": 1}, id="k"), "shape.none"),
        (result("videorectangle", {"sequence": []}, id="v"), "shape.none"),
        (box(3, 3, 3, 3, id="n") | {"original_width": None}, "number.invalid"),
        (box(3, 3, math.nan, 3, id="nan"), "number.invalid"),
        (box(3, 3, 3, 3, id="t", image_rotation=90), "image.rotated"),
        (result("brushlabels", {"format": "rle", "rle": [1, 2, 3]}, id="b"), "rle.invalid"),
        (result("brushlabels", {"format": "png", "rle": []}, id="p"), "rle.invalid"),
        (result("bitmask", {"imageDataURL": "http://example.org/a.png"}, id="u"), "bitmap.invalid"),
        (box(3, 3, 3, 3, id="s", original_width=99), "image.size"),
    ]
    good = box(7, 5, 13, 11, id="good")
    read = imported(tmp_path, "label-studio", [task(good, *(entry for entry, _ in bad)), {"data": {}}, {"data": 3}])
    assert [region.region_id for region in read.item.regions] == ["good"]
    expected = {f"[0].annotations[0].result[{at}]": reason for at, (_, reason) in enumerate(bad, 1)}
    assert read.reasons() == {**expected, "[1]": "image.unnamed", "[2]": "entry.invalid"}


def test_only_predicted_is_said_and_taken_when_asked_for(tmp_path) -> None:
    tasks = [{"data": {"image": "a.jpg"}, "annotations": [], "predictions": [{"result": [box(7, 5, 13, 11)]}]}]
    with pytest.raises(JobError, match="--predictions takes that"):
        imported(tmp_path, "label-studio", tasks)
    assert imported(tmp_path, "label-studio", tasks, predictions=True).region.box == (7, 5, 20, 16)
