"""COCO JSON in: its traps, and entries that are none."""

import math

import numpy as np
import pytest

from refine_ops.annotations import run_lengths
from refine_ops.errors import JobError
from tests.support.annotated import imported, marked, photo

SIZE = (64, 48)


def dataset(*annotations: dict, images: list | None = None, categories: list | None = None) -> dict:
    shown = [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}] if images is None else images
    kinds = [{"id": 0, "name": "logo"}, {"id": 3, "name": "seam"}] if categories is None else categories
    given = [{"id": i, "image_id": 1, "category_id": 0, **a} for i, a in enumerate(annotations)]
    return {"images": shown, "annotations": given, "categories": kinds}


@pytest.fixture(autouse=True)
def _photo(tmp_path) -> None:
    photo(tmp_path / "photos" / "a.jpg", SIZE)


def test_category_id_0_is_a_category(tmp_path) -> None:
    read = imported(tmp_path, "coco", dataset({"bbox": [3, 4, 10, 5]}, {"bbox": [1, 1, 2, 2], "category_id": 3}))
    logo, seam = read.item.regions
    assert (logo.box, logo.prompt, logo.region_id) == ((3, 4, 13, 9), "Refine the logo", "logo")
    assert (seam.box, seam.prompt) == ((1, 1, 3, 3), "Refine the seam")
    assert (read.item.item_id, read.item.output) == ("a.jpg", "a.jpg")
    assert not read.found.counts


def test_polygons_with_holes(tmp_path) -> None:
    outer, inner = [10, 10, 40, 10, 40, 40, 10, 40], [20, 20, 30, 20, 30, 30, 20, 30]
    keyhole = [10, 10, 40, 10, 40, 40, 10, 40, 10, 10, 20, 20, 20, 30, 30, 30, 30, 20, 20, 20]
    read = imported(tmp_path, "coco", dataset({"segmentation": [outer, inner]}, {"segmentation": [keyhole]}))
    both, with_hole = (marked(region, SIZE) for region in read.item.regions)
    # COCO's own tool adds all rings, so a ring within a ring is no hole; that two overlap is said.
    assert (both.sum(), with_hole.sum()) == (900, 800)
    assert read.reasons() == {"annotations[0]": "outline.overlap"}
    again = imported(tmp_path, "coco", dataset({"segmentation": [outer, inner]}), rings="holes", out="b.jsonl")
    np.testing.assert_array_equal(marked(again.region, SIZE), with_hole)
    assert not again.found.counts


@pytest.mark.parametrize("compressed", [True, False])
def test_crowd_rle(compressed: bool, tmp_path) -> None:
    mask = np.zeros((48, 64), bool)
    mask[5:20, 8:12] = mask[30:, 40:] = True
    runs = run_lengths.runs_in(mask, "F")
    counts = run_lengths.compressed(runs) if compressed else runs.tolist()
    entry = {"segmentation": {"size": [48, 64], "counts": counts}, "bbox": [8, 5, 56, 43], "iscrowd": 1}
    np.testing.assert_array_equal(marked(imported(tmp_path, "coco", dataset(entry)).region, SIZE), mask)


def test_a_polygon_that_is_a_rectangle_becomes_a_box_and_halves_of_pixels_round(tmp_path) -> None:
    read = imported(
        tmp_path,
        "coco",
        dataset({"segmentation": [[2, 3, 12, 3, 12, 9, 2, 9]], "bbox": [0, 0, 1, 1]}, {"bbox": [2.4, 3.6, 10.2, 5.0]}),
    )
    assert [region.box for region in read.item.regions] == [(2, 3, 12, 9), (2, 4, 13, 9)]


def test_images_without_annotations_are_counted(tmp_path) -> None:
    photo(tmp_path / "photos" / "b.jpg")
    images = [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}, {"id": 2, "file_name": "b.jpg"}]
    read = imported(tmp_path, "coco", dataset({"bbox": [3, 4, 10, 5]}, images=images))
    assert (len(read.items), read.found.unmarked, read.found.left_out) == (1, 1, 0)
    assert "1 images without annotations are not in it" in read.found.describe()


def test_an_entry_that_cannot_be_read_is_listed_with_its_place_and_the_rest_is_read(tmp_path) -> None:
    bad = [
        ({"bbox": [math.nan, 4, 10, 5]}, "number.invalid"),
        ({"bbox": [math.inf, 4, 10, 5]}, "number.invalid"),
        ({"bbox": [3, 4, -10, 5]}, "box.inverted"),
        ({"bbox": [3, 4, 10]}, "box.invalid"),
        ({}, "box.invalid"),
        ({"bbox": [100, 4, 10, 5]}, "box.outside"),
        ({"bbox": [5, 4, 0.2, 5]}, "box.empty"),
        ({"bbox": [3, 4, 10, 5], "image_id": 9}, "entry.no_image"),
        ({"bbox": [3, 4, 10, 5], "category_id": 7}, "label.unknown"),
        ({"segmentation": [[1, 2, 3]]}, "outline.invalid"),
        ({"segmentation": [[1, 2, 3, 4, 5, None]]}, "number.invalid"),
        ({"segmentation": {"size": [48, 64], "counts": [1, 2]}}, "rle.invalid"),
        ({"segmentation": {"size": [48, 63], "counts": [48 * 63]}}, "mask.size"),
        ({"segmentation": {"size": [48, 64], "counts": [48 * 64]}}, "mask.empty"),
        ({"segmentation": {"size": [1e9, 1e9], "counts": "0"}}, "number.invalid"),
        ({"segmentation": "x"}, "entry.invalid"),
    ]
    data = dataset(*(entry for entry, _ in bad), {"bbox": [3, 4, 10, 5]})
    data["annotations"] += [7, None]
    data["images"] += [{"id": 2, "file_name": "gone.jpg"}, {"file_name": "a.jpg"}, {"id": 1}, 5]
    read = imported(tmp_path, "coco", data)
    assert len(read.item.regions) == 1
    expected = {f"annotations[{at}]": reason for at, (_, reason) in enumerate(bad)}
    expected |= {f"annotations[{len(bad) + 1 + i}]": "entry.invalid" for i in range(2)}
    expected |= {"images[1]": "image.missing", "images[2]": "entry.invalid", "images[3]": "entry.duplicate"}
    assert read.reasons() == {**expected, "images[4]": "entry.invalid"}
    assert read.found.left_out == len(bad) + 6


def test_boxes_that_reach_outside_are_clipped_and_counted(tmp_path) -> None:
    read = imported(tmp_path, "coco", dataset({"bbox": [-5, -5, 10, 10]}, {"segmentation": [[50, 30, 90, 30, 60, 70]]}))
    assert read.item.regions[0].box == (0, 0, 5, 5)
    assert marked(read.item.regions[1], SIZE).any()
    assert read.found.clipped == 2


def test_many_boxes_on_one_image_are_cut_off_with_their_number(tmp_path) -> None:
    read = imported(tmp_path, "coco", dataset(*[{"bbox": [i % 50, i % 40, 5, 5]} for i in range(3000)]))
    assert len(read.item.regions) == 256
    (remark,) = read.found.remarks
    assert (remark.reason, remark.message.split()[0]) == ("regions.too_many", "2,744")


@pytest.mark.parametrize(
    ("declared", "box", "expected"),
    [
        ((48, 64), [2, 50, 10, 10], (2, 50, 12, 60)),  # the upright size
        ((64, 48), [2, 50, 10, 10], (2, 50, 12, 60)),  # stored size beside upright coordinates: label-studio#6608
        ((64, 48), [50, 2, 10, 10], (36, 50, 46, 60)),  # of the file as stored: fiftyone#3778, labelImg#395
        ((64, 48), [2, 3, 10, 10], None),
    ],
)
def test_exif_orientation(declared, box, expected, tmp_path) -> None:
    photo(tmp_path / "photos" / "a.jpg", SIZE, 6)
    images = [{"id": 1, "file_name": "a.jpg", "width": declared[0], "height": declared[1]}]
    data = dataset({"bbox": box}, images=images)
    if expected is not None:
        assert imported(tmp_path, "coco", data).region.box == expected
        return
    with pytest.raises(JobError, match="--orientation upright or stored"):
        imported(tmp_path, "coco", data)
    assert imported(tmp_path, "coco", data, orientation="upright").region.box == (2, 3, 12, 13)
    assert imported(tmp_path, "coco", data, orientation="stored").region.box == (35, 2, 45, 12)


def test_an_image_of_another_size_is_not_the_one_that_was_drawn_on(tmp_path) -> None:
    images = [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}]
    with pytest.raises(JobError, match="drawn on an image of 640 x 480 px, this one has 64 x 48"):
        imported(tmp_path, "coco", dataset({"bbox": [3, 4, 10, 5]}, images=images))


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"images": 3}', "[" * 100_000, '{"images": ' + "9" * 5000])
def test_what_is_no_coco_file_is_refused(content: str, tmp_path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(JobError):
        imported(tmp_path, "coco", path)
    assert not (tmp_path / "manifest.jsonl").exists()


def test_what_becomes_of_a_label_is_a_table(tmp_path) -> None:
    rules = {"logo": {"prompt": "Sharpen {label}", "seed": 4, "paste": "box"}, "seam": {"skip": True}}
    data = dataset({"bbox": [3, 4, 10, 5]}, {"bbox": [3, 4, 10, 5], "category_id": 3})
    read = imported(tmp_path, "coco", data, labels=rules)
    assert (read.region.prompt, read.region.seed, read.region.paste) == ("Sharpen logo", 4, "box")
    assert read.found.counts == {"label.skipped": 1}
    assert read.found.left_out == 0


def test_an_outline_and_a_crowd_as_other_tools_write_them(tmp_path) -> None:
    """The numbers of a file in datumaro's test-suite: corners as floats, runs that begin with nothing, a bbox that is
    not that of the mask."""
    photo(tmp_path / "photos" / "b.jpg", (5, 10))
    images = [{"id": 40, "width": 5, "height": 10, "file_name": "b.jpg", "license": 0, "flickr_url": ""}]
    outline = {"segmentation": [[0.0, 0.0, 1.0, 0.0, 1.0, 2.0, 0.0, 2.0]], "bbox": [0.0, 0.0, 1.0, 2.0], "iscrowd": 0}
    crowd = {"segmentation": {"counts": [0, 20, 30], "size": [10, 5]}, "bbox": [0.0, 0.0, 1.0, 9.0], "iscrowd": 1}
    shared = {"image_id": 40, "attributes": {"x": 1}, "area": 2.0}
    read = imported(tmp_path, "coco", dataset({**outline, **shared}, {**crowd, **shared}, images=images))
    assert read.item.regions[0].box == (0, 0, 1, 2)
    expected = np.zeros((10, 5), bool)
    expected[:, :2] = True
    np.testing.assert_array_equal(marked(read.item.regions[1], (5, 10)), expected)


def test_one_bad_label_costs_its_region_and_several_files_of_one_image_are_said(tmp_path) -> None:
    kinds = [{"id": 0, "name": "logo"}, {"id": 1, "name": "two\nlines"}, {"id": 2, "name": "x" * 5000}]
    drawn = [{"bbox": [3, 4, 10, 5], "category_id": kind["id"]} for kind in kinds]
    read = imported(tmp_path, "coco", dataset(*drawn, categories=kinds))
    assert [region.prompt for region in read.item.regions] == ["Refine the logo"]
    assert read.reasons() == {"annotations[1]": "region_id.invalid", "annotations[2]": "region_id.invalid"}
    twice = [dataset({"bbox": [3, 4, 10, 5]}), dataset({"bbox": [4, 5, 6, 7]})]
    read = imported(tmp_path, "coco", *twice, out="b.jsonl")
    assert [region.region_id for region in read.item.regions] == ["logo", "logo-2"]
    assert read.found.counts == {"files.several": 1}
