"""VOC, LabelMe, YOLO, VIA and plain masks in: how each counts, and how each names its images."""

import base64
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from refine_ops.errors import JobError
from refine_ops.image.source import upright
from tests.support.annotated import imported, marked, photo

SIZE = (64, 48)


@pytest.fixture(autouse=True)
def _photo(tmp_path) -> None:
    photo(tmp_path / "photos" / "a.jpg", SIZE)
    photo(tmp_path / "photos" / "shoes" / "b.png", SIZE)


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def voc(*boxes: tuple[object, ...], name: str = "a.jpg", size: tuple[int, int] | None = SIZE) -> str:
    sizes = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    objects = "".join(
        f"<object><name>logo</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
        "<part><name>head</name></part></object>"
        for x0, y0, x1, y1 in boxes
    )
    return f"<annotation><folder>photos</folder><filename>{name}</filename>{sizes}{objects}" + (
        "<source><annotation>PASCAL VOC2007</annotation></source></annotation>"
    )


def test_1_based_voc_boxes(tmp_path) -> None:
    read = imported(tmp_path, "voc", voc((1, 1, 64, 48), (10, 20, 10, 20)))
    assert [region.box for region in read.item.regions] == [(0, 0, 64, 48), (9, 19, 10, 20)]
    assert read.found.counts == {"part.unread": 2}
    with pytest.raises(JobError, match="--set origin=0 reads pixels from 0"):
        imported(tmp_path, "voc", voc((0, 5, 9, 9)))
    assert imported(tmp_path, "voc", voc((0, 5, 9, 9)), origin=0).region.box == (0, 5, 10, 10)
    assert imported(tmp_path, "voc", voc((0, 5, 9, 9)), origin="edges").region.box == (0, 5, 9, 9)


def test_voc_files_of_a_folder_and_those_that_are_none(tmp_path) -> None:
    folder = tmp_path / "Annotations"
    written(folder / "1.xml", voc((2, 2, 9, 9)))
    written(folder / "2.xml", voc((2, 2, 9, 9), (4, 4, "x", 9), name="shoes/b.png", size=(0, 0)))
    written(folder / "3.xml", "<annotation")
    written(folder / "4.xml", "<other/>")
    written(folder / "note.txt", "no annotation")
    read = imported(tmp_path, "voc", folder)
    assert [item.item_id for item in read.items] == ["a.jpg", "shoes/b.png"]
    assert read.found.counts == {"part.unread": 3, "number.invalid": 1, "file.invalid": 2}


def test_exif_orientation_of_voc_is_asked_for_where_nothing_tells(tmp_path) -> None:
    photo(tmp_path / "photos" / "a.jpg", SIZE, 3)
    with pytest.raises(JobError, match="--orientation upright or stored"):
        imported(tmp_path, "voc", voc((2, 2, 9, 9)))
    assert imported(tmp_path, "voc", voc((2, 2, 9, 9)), orientation="stored").region.box == (55, 39, 63, 47)


def test_yolos_normalised_centres(tmp_path) -> None:
    labels = tmp_path / "labels"
    written(labels / "a.txt", "0 0.5 0.5 0.25 0.5\n\n2 0.25 0.25 0.125 0.25 0.93\n")
    written(labels / "shoes" / "b.txt", "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n1 0.1 0.1 0.5 0.2 0.3 0.9\n")
    written(tmp_path / "data.yaml", "names:\n  0: logo\n  1: seam\n  2: dial\n")
    read = imported(tmp_path, "yolo", labels)
    first, second = read.items
    assert [(r.box, r.prompt) for r in first.regions] == [
        ((24, 12, 40, 36), "Refine the logo"),
        ((12, 6, 20, 18), "Refine the dial"),
    ]
    assert second.item_id == "shoes/b.png"
    assert second.regions[0].box == (16, 12, 48, 36)
    assert marked(second.regions[1], SIZE).any()
    assert not read.found.counts


def test_every_box_comes_back_from_yolo_exactly(tmp_path) -> None:
    width, height = 637, 421
    photo(tmp_path / "photos" / "odd.png", (width, height))
    rng = np.random.default_rng(5)
    boxes = []
    for _ in range(250):
        (x0, x1), (y0, y1) = np.sort(rng.integers(0, width, 2)), np.sort(rng.integers(0, height, 2))
        boxes.append((int(x0), int(y0), int(x1) + 1, int(y1) + 1))
    lines = [
        f"0 {(a + c) / 2 / width:.6f} {(b + d) / 2 / height:.6f} {(c - a) / width:.6f} {(d - b) / height:.6f}"
        for a, b, c, d in boxes
    ]
    written(tmp_path / "labels" / "classes.txt", "logo\n")
    read = imported(tmp_path, "yolo", written(tmp_path / "labels" / "odd.txt", "\n".join(lines)))
    assert [region.box for region in read.item.regions] == boxes


def test_yolo_lines_that_are_none_and_classes_without_a_name(tmp_path) -> None:
    written(tmp_path / "labels" / "classes.txt", "logo\n")
    lines = ["0 0.5 0.5 0.2 0.2", "7 0.5 0.5 0.2 0.2", "0 0.5 0.5", "x 1 1 1 1", "0 nan 0.5 0.2 0.2", "0 5 5 0.2 0.2"]
    read = imported(tmp_path, "yolo", written(tmp_path / "labels" / "a.txt", "\n".join(lines)))
    reasons = ["label.unknown", "line.invalid", "number.invalid", "number.invalid", "box.outside"]
    assert read.reasons() == {f"line {at}": reason for at, reason in enumerate(reasons, 2)}
    (tmp_path / "labels" / "classes.txt").unlink()
    read = imported(tmp_path, "yolo", written(tmp_path / "labels" / "a.txt", "7 0.5 0.5 0.2 0.2"), out="b.jsonl")
    assert (read.region.prompt, read.found.counts) == ("Refine the region", {"label.unnamed": 1})


def test_labelme_shapes(tmp_path) -> None:
    part = np.zeros((6, 9), np.uint8)
    part[1:5, 2:8] = 1
    png = base64.b64encode(cv2.imencode(".png", part)[1].tobytes()).decode()
    shapes = [
        {"label": "rectangle", "points": [[12, 9], [2, 3]], "shape_type": "rectangle"},
        {"label": "circle", "points": [[30, 24], [40, 24]], "shape_type": "circle"},
        {"label": "polygon", "points": [[10, 10], [40, 10], [10, 40]]},
        {"label": "mask", "points": [[20.4, 29.6], [28.4, 34.6]], "shape_type": "mask", "mask": png},
        {"label": "line", "points": [[1, 2], [3, 4]], "shape_type": "line"},
        {"label": "mask", "points": [[20, 30], [28, 35]], "shape_type": "mask", "mask": "????"},
        {"label": "circle", "points": [[30, 24]], "shape_type": "circle"},
        7,
    ]
    document = {"shapes": shapes, "imagePath": "..\\photos\\a.jpg", "imageWidth": 64, "imageHeight": 48}
    read = imported(tmp_path, "labelme", written(tmp_path / "json" / "a.json", document))
    box, circle, polygon, mask = read.item.regions
    assert box.box == (2, 3, 12, 9)
    assert marked(circle, SIZE).sum() == pytest.approx(math.pi * 100, rel=0.03)
    assert marked(polygon, SIZE).sum() == pytest.approx(450, abs=20)
    expected = np.zeros((48, 64), bool)
    expected[31:35, 22:28] = True
    np.testing.assert_array_equal(marked(mask, SIZE), expected)
    reasons = ["shape.none", "bitmap.invalid", "outline.invalid", "entry.invalid"]
    assert read.reasons() == {f"shapes[{at}]": reason for at, reason in enumerate(reasons, 4)}


def test_a_labelme_image_lies_beside_its_file_first(tmp_path) -> None:
    photo(tmp_path / "photos" / "shoes" / "a.jpg", SIZE)
    shape = {"label": "x", "points": [[2, 3], [12, 9]], "shape_type": "rectangle"}
    document = {"shapes": [shape], "imagePath": "a.jpg", "imageWidth": None}
    read = imported(tmp_path, "labelme", written(tmp_path / "photos" / "shoes" / "a.json", document))
    assert read.item.item_id == "shoes/a.jpg"
    escaping = {**document, "imagePath": "../../../secret/a.png"}
    with pytest.raises(JobError, match="no such image below"):
        imported(tmp_path, "labelme", written(tmp_path / "photos" / "shoes" / "c.json", escaping))


def test_via_shapes_labels_and_both_versions_of_regions(tmp_path) -> None:
    def region(label: object, **shape: object) -> dict:
        return {"shape_attributes": shape, "region_attributes": label}

    regions = [
        region({"class": "logo"}, name="rect", x=2, y=3, width=10, height=6),
        region({"kind": {"seam": True, "dial": False}}, name="circle", cx=30, cy=24, r=10),
        region({}, name="ellipse", cx=32, cy=24, rx=16, ry=8, theta=math.pi / 2),
        region({"a": "1", "b": "2"}, name="polygon", all_points_x=[10, 40, 10], all_points_y=[10, 10, 40]),
        region({}, name="point", cx=3, cy=3),
        region({}, name="polygon", all_points_x=[1, 2, 3], all_points_y=[1, 2]),
    ]
    images = {
        "a.jpg1234": {"filename": "a.jpg", "size": 1234, "regions": regions, "file_attributes": {}},
        "b.png99": {"filename": "shoes/b.png", "size": 99, "regions": {"0": regions[0]}, "file_attributes": {}},
    }
    read = imported(tmp_path, "via", {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {}})
    first, second = read.items
    assert [r.prompt for r in first.regions] == [f"Refine the {w}" for w in ("logo", "seam", "region", "region")]
    assert (first.regions[0].box, second.regions[0].box) == ((2, 3, 12, 9), (2, 3, 12, 9))
    upright = marked(first.regions[2], SIZE)
    assert upright[:, 32].sum() > upright[24].sum()
    assert read.reasons() == {
        "['a.jpg1234'].regions[4]": "shape.none",
        "['a.jpg1234'].regions[5]": "outline.invalid",
    }
    alone = imported(tmp_path, "via", images, out="b.jsonl", label_key="b")
    assert alone.items[0].regions[3].prompt == "Refine the 2"


def test_via_3(tmp_path) -> None:
    def about(*xy: float, vid: str = "1", value: str = "0", z: tuple[float, ...] = ()) -> dict:
        return {"vid": vid, "flg": 0, "z": list(z), "xy": list(xy), "av": {"1": value}}

    project = {
        "project": {"pid": "x", "data_format_version": "3.1.1"},
        "attribute": {"1": {"aname": "what", "type": 4, "options": {"0": "logo", "1": "seam"}}},
        "file": {"7": {"fid": 7, "fname": "a.jpg", "type": 2, "loc": 1, "src": "a.jpg"}, "8": {"src": "shoes/b.png"}},
        "view": {"1": {"fid_list": [7]}, "2": {"fid_list": ["8"]}, "3": {"fid_list": [7, 8]}},
        "metadata": {
            "r": about(2, 2, 3, 10, 6),
            "c": about(3, 30, 24, 10, vid="2", value="1"),
            "p": about(7, 10, 10, 40, 10, 10, 40, vid="2", value="else"),
            "point": about(1, 5, 5),
            "short": about(2, 5, 5),
            "video": about(2, 2, 3, 10, 6, z=(0.5,)),
            "nowhere": about(2, 2, 3, 10, 6, vid="9"),
        },
    }
    read = imported(tmp_path, "via", project)
    first, second = read.items
    assert (first.regions[0].box, first.regions[0].prompt) == ((2, 3, 12, 9), "Refine the logo")
    assert [region.prompt for region in second.regions] == ["Refine the seam", "Refine the else"]
    assert marked(second.regions[1], SIZE).sum() == pytest.approx(450, abs=20)
    reasons = {"point": "shape.none", "short": "shape.none", "video": "shape.none", "nowhere": "entry.no_image"}
    expected = {f"metadata[{key!r}]": reason for key, reason in reasons.items()}
    assert read.reasons() == {**expected, "view['3']": "entry.no_image"}


def test_plain_masks_by_folder(tmp_path) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[5:20, 8:12] = 255
    for name in ("masks/a.png", "masks/shoes/b_mask.png", "masks/logo/shoes/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / name)
    Image.fromarray(mask[:10]).save(tmp_path / "masks" / "logo" / "a.png")
    read = imported(tmp_path, "masks", tmp_path / "masks")
    found = {
        (item.item_id, region.prompt): Path(region.mask or "").relative_to(tmp_path).as_posix()
        for item in read.items
        for region in item.regions
    }
    assert found == {
        ("a.jpg", "Refine the region"): "masks/a.png",
        ("shoes/b.png", "Refine the region"): "masks/shoes/b_mask.png",
        ("shoes/b.png", "Refine the logo"): "masks/logo/shoes/b.png",
    }
    assert read.found.counts == {"mask.size": 1}


@pytest.mark.parametrize("orientation", [6, 8, 5, 7])
def test_a_mask_of_the_photo_as_stored_is_turned(orientation: int, tmp_path) -> None:
    photo(tmp_path / "photos" / "a.jpg", SIZE, orientation)
    mask = np.zeros((48, 64), np.uint8)
    mask[5:20, 8:12] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    read = imported(tmp_path, "masks", tmp_path / "masks")
    np.testing.assert_array_equal(marked(read.region, (48, 64)), upright(mask > 0, orientation))
