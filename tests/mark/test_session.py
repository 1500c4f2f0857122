"""What is marked is in the manifest, whatever was there before and whoever comes between."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError, JobError
from refine_ops.image.region import region_mask
from refine_ops.job.planning.manifest import read_items
from refine_ops.mark.folder import list_images
from refine_ops.mark.manifest_file import manifest_bytes
from refine_ops.mark.regions import DEFAULT_PROMPT, MaskPainter, PageRegion, PageRegions
from refine_ops.mark.session import MarkSession, Superseded
from refine_ops.records import Item, Region, Scribble

BOX = {"region_id": "1", "prompt": "Refine the label", "box": [4, 5, 30, 20]}
SUFFIXES = ("jsonl", "ndjson", "csv", "tsv", "parquet")


def photo(path: Path, width: int = 64, height: int = 48, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.full((height, width, 3), 120, np.uint8)).save(path, exif=exif)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.png", "sub/c.jpg"):
        photo(tmp_path / "photos" / name)
    return tmp_path / "photos"


def opened(photos: Path, manifest: str = "manifest.jsonl") -> MarkSession:
    return MarkSession.open(str(photos / manifest), list_images(str(photos)))


def put(session: MarkSession, number: int, *regions: dict) -> int:
    return session.put(number, PageRegions.model_validate(session.image(number) | {"regions": regions}, extra="ignore"))


def from_tab(tab: str, *regions: dict) -> PageRegions:
    return PageRegions.model_validate({"version": 0, "tab": tab, "regions": regions})


def items(photos: Path, manifest: str = "manifest.jsonl") -> list[Item]:
    found = list(read_items(str(photos / manifest)))
    assert all(isinstance(item, Item) for item in found), found
    return [item for item in found if isinstance(item, Item)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_field_survives_being_saved_and_read_again(tmp_path: Path, suffix: str) -> None:
    folder = str(tmp_path)
    regions = (
        Region("1", 'Say "no", then\na line; and; 007', box=(0, 0, 9, 9), seed=(1 << 63) - 1, paste="box"),
        Region("=2+3", "übrig 👩‍🔬", scribble=Scribble((((1.5, 2.0), (3.25, 4.0)), ((0.0, 0.0),)), 3.5)),
        Region(
            "m",
            "x",
            mask=f"{folder}/manifest.masks/m.png",
            reference="s3://brand/logo.png",
            references=(f"{folder}/r,1.png", "/elsewhere/r;2.png"),
            mask_level=9,
            mask_invert=True,
        ),
    )
    given = [
        Item("007", f"{folder}/a, b.jpg", "007.jpg", regions[:2], 0, "shoes; size"),
        Item("x/y", "s3://shop/c.png", "other/name.png", regions[2:], 0),
    ]
    uri = str(tmp_path / f"m.{suffix}")
    storage.write(uri, manifest_bytes(given, uri))
    found = items(tmp_path, f"m.{suffix}")
    assert [(i.item_id, i.image, i.output, i.category, i.regions) for i in found] == [
        (i.item_id, i.image, i.output, i.category, i.regions) for i in given
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_marked_is_saved_at_once_and_found_by_the_next_session(photos: Path, suffix: str) -> None:
    name = f"manifest.{suffix}"
    session = opened(photos, name)
    put(session, 2, BOX)
    put(session, 0, BOX | {"box": [1, 1, 9, 9]}, BOX | {"region_id": "2"})
    assert [(i.item_id, len(i.regions)) for i in items(photos, name)] == [("sub/c", 1), ("a", 2)]
    again = opened(photos, name)  # the first was never closed: it died
    assert again.overview()["counts"] == [2, 0, 1]
    assert again.image(0)["regions"][1] == BOX | {"region_id": "2"}
    put(again, 0)
    put(again, 2)
    assert items(photos, name) == []
    put(opened(photos, name), 1, BOX)
    assert [i.item_id for i in items(photos, name)] == ["b"]


def test_images_are_named_relative_to_the_manifest_so_that_both_can_move(photos: Path) -> None:
    put(opened(photos), 2, BOX)
    assert json.loads((photos / "manifest.jsonl").read_text())["image"] == "sub/c.jpg"


def test_rows_of_other_images_and_what_the_page_does_not_show_are_kept(photos: Path, tmp_path: Path) -> None:
    rows = [
        {"item_id": "far", "image": "s3://shop/far.jpg", "regions": [BOX]},
        {
            "item_id": "sku-1",
            "image": "a.jpg",
            "output": "out/1.jpg",
            "category": "shoes",
            "regions": [BOX | {"seed": (1 << 62) + 1, "paste": "box"}],
        },
    ]
    (photos / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    session = opened(photos)
    assert session.elsewhere == 1
    put(session, 0, *session.image(0)["regions"], BOX | {"region_id": "new"})
    far, near = items(photos)
    assert far.image == "s3://shop/far.jpg"
    assert (near.item_id, near.output, near.category) == ("sku-1", "out/1.jpg", "shoes")
    assert (near.regions[0].seed, near.regions[0].paste) == ((1 << 62) + 1, "box")
    assert json.loads((photos / "manifest.jsonl.bak").read_text().splitlines()[1]) == rows[1]


def test_an_image_that_lost_its_last_region_gets_its_row_back_with_the_next(photos: Path) -> None:
    row = {"item_id": "sku-1", "image": "a.jpg", "category": "shoes", "regions": [BOX]}
    (photos / "manifest.jsonl").write_text(json.dumps(row))
    session = opened(photos)
    put(session, 0)
    assert (photos / "manifest.jsonl").read_text() == ""
    put(session, 0, BOX)
    assert [(i.item_id, i.category) for i in items(photos)] == [("sku-1", "shoes")]


def test_a_painted_mask_has_the_pixels_of_its_strokes_in_their_order(photos: Path) -> None:
    session = opened(photos)
    strokes = [
        {"points": [[10, 10], [40, 10]], "width": 8},
        {"points": [[20, 10]], "width": 6, "erase": True},
        {"points": [[900, 900]], "width": 6},
    ]
    painted = BOX | {"box": None, "mask": {"base": None, "strokes": strokes}}
    put(session, 0, painted)
    [region] = items(photos)[0].regions
    assert region.mask is not None
    assert Path(region.mask).parent == photos / "manifest.masks"
    mask = region_mask(region, (64, 48), Path(region.mask).read_bytes(), ImageLimits())
    line, hole = (
        region_mask(
            Region("x", "", scribble=Scribble((tuple(map(tuple, s["points"])),), s["width"])),
            (64, 48),
            None,
            ImageLimits(),
        )
        for s in strokes[:2]
    )
    assert (mask == (line & ~hole)).all()

    on_top = {"base": region.mask, "strokes": [{"points": [[50, 40]], "width": 4}]}
    put(session, 0, painted | {"mask": on_top})
    [more] = items(photos)[0].regions
    both = region_mask(more, (64, 48), Path(str(more.mask)).read_bytes(), ImageLimits())
    assert both[40, 50]
    assert (both[:30] == mask[:30]).all()
    session.close()
    assert [str(p) for p in (photos / "manifest.masks").iterdir()] == [more.mask]
    assert opened(photos).overview()["images"] == ["a.jpg", "b.png", "sub/c.jpg"]  # masks are none of the images


def test_strokes_that_come_one_by_one_and_are_undone_make_the_mask_that_all_at_once_make() -> None:
    rng = np.random.default_rng(0)
    strokes = [
        {"points": rng.uniform(0, 48, (3, 2)).tolist(), "width": float(rng.integers(3, 9)), "erase": n % 3 == 2}
        for n in range(12)
    ]
    painter = MaskPainter(ImageLimits())
    for count in (*range(1, 13), 11, 9, 10, 12):
        region = PageRegion.model_validate(BOX | {"box": None, "mask": {"strokes": strokes[:count]}})
        made, fresh = (one.painted(region, (64, 48)) for one in (painter, MaskPainter(ImageLimits())))
        assert (made == fresh).all()


def test_many_threads_save_and_nothing_is_lost(photos: Path) -> None:
    for number in range(12):
        photo(photos / f"many-{number:02}.png")
    session = opened(photos)
    with ThreadPoolExecutor(6) as pool:
        list(
            pool.map(
                lambda n: put(session, n % 15, *[BOX | {"region_id": str(r)} for r in range(1 + n // 15)]), range(45)
            )
        )
    assert [len(item.regions) for item in items(photos)] == [3] * 15


def test_a_mask_copied_to_an_image_of_another_size_keeps_its_place(photos: Path) -> None:
    photo(photos / "wide.jpg", 128, 48)
    session = opened(photos)
    number = session.overview()["images"].index("wide.jpg")
    put(session, 0, BOX | {"box": None, "mask": {"strokes": [{"points": [[16, 24]], "width": 10}]}})
    base = session.image(0)["regions"][0]["mask"]["base"]
    put(session, number, BOX | {"box": None, "mask": {"base": base, "resize": True}})
    [region] = next(item for item in items(photos) if item.item_id == "wide").regions
    data = Path(str(region.mask)).read_bytes()
    assert set(np.unique(np.asarray(Image.open(str(region.mask))))) == {0, 255}
    y, x = np.nonzero(region_mask(region, (128, 48), data, ImageLimits()))
    assert (round(x.mean()), round(y.mean())) == (32, 24)
    with pytest.raises(ItemError, match="masks must match"):
        put(session, number, BOX | {"box": None, "mask": {"base": base, "strokes": [{"points": [[1, 1]], "width": 2}]}})


def test_coordinates_are_those_of_the_upright_image(photos: Path) -> None:
    photo(photos / "turned.jpg", 64, 48, orientation=6)
    session = opened(photos)
    number = session.overview()["images"].index("turned.jpg")
    assert (session.image(number)["width"], session.image(number)["height"]) == (48, 64)
    put(session, number, BOX | {"box": [0, 0, 48, 64]})
    with pytest.raises(ItemError, match="leaves the 48 x 64 image"):
        put(session, number, BOX | {"box": [0, 0, 64, 48]})
    for show in (session.pictures.view, session.pictures.thumb):
        path = photos / "shown.jpg"
        path.write_bytes(show(str(photos / "turned.jpg")))
        assert Image.open(path).size == (48, 64)


@pytest.mark.parametrize(
    ("region", "why"),
    [
        (BOX | {"box": [4, 5, 65, 20]}, "leaves the 64 x 48 image"),
        (BOX | {"box": [9, 9, 9, 20]}, "is empty"),
        (BOX | {"scribble": {"strokes": [[[1, 1]]], "width": 3}}, "expected one of box, mask, scribble"),
        (BOX | {"box": None, "scribble": {"strokes": [[[900, 1]]], "width": 3}}, "no point of it lies on the image"),
        (BOX | {"box": None, "scribble": {"strokes": [], "width": 3}}, "1 to 100000 points"),
        (BOX | {"box": None, "mask": {"strokes": [{"points": [[900, 1]], "width": 3}]}}, "nothing is marked any more"),
        (BOX | {"box": None, "mask": {"base": "/etc/passwd"}}, "neither in the manifest"),
        (BOX | {"reference": "../../etc/passwd"}, "neither in the manifest"),
        (BOX | {"references": ["s3://other/secret.png"]}, "neither in the manifest"),
    ],
)
def test_what_cannot_be_a_region_changes_nothing(photos: Path, region: dict, why: str) -> None:
    session = opened(photos)
    put(session, 0, BOX)
    before = (photos / "manifest.jsonl").read_bytes()
    with pytest.raises(ItemError, match=why):
        put(session, 0, region)
    assert (photos / "manifest.jsonl").read_bytes() == before
    assert session.image(0)["regions"] == [BOX]


def test_a_region_that_nobody_wrote_a_prompt_for_has_the_one_that_is_shown(photos: Path) -> None:
    put(opened(photos), 0, BOX | {"prompt": "  "})
    assert items(photos)[0].regions[0].prompt == DEFAULT_PROMPT


def test_two_tabs_and_two_programs_do_not_overwrite_each_other(photos: Path) -> None:
    session = opened(photos)
    session.put(0, from_tab("one", BOX))
    assert session.put(0, from_tab("one", BOX)) == 2  # sent as the tab was closed, before the first was answered
    with pytest.raises(Superseded, match="another tab"):
        session.put(0, from_tab("two", BOX))
    (photos / "manifest.jsonl").write_text(json.dumps({"item_id": "theirs", "image": "a.jpg", "regions": [BOX]}))
    with pytest.raises(Superseded, match="another program"):
        session.put(0, from_tab("one"))
    assert items(photos)[0].item_id == "theirs"
    assert len(session.image(0)["regions"]) == 1  # as the page still shows it


def test_a_disk_that_refuses_is_told_and_the_same_change_goes_through_later(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(photos)

    def full(*_: object) -> None:
        raise JobError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", full)
        with pytest.raises(JobError, match="no space"):
            put(session, 0, BOX)
    assert session.image(0) | {"regions": []} == {"width": 64, "height": 48, "version": 0, "regions": []}
    assert put(session, 0, BOX) == 1
    assert len(items(photos)) == 1


def test_a_manifest_with_a_bad_row_is_not_opened_as_that_row_would_be_lost(photos: Path) -> None:
    rows = [{"item_id": "a", "image": "a.jpg", "regions": [BOX]}, {"item_id": "b", "image": "b.png", "regions": []}]
    (photos / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(JobError, match=r"row 2: regions\.none"):
        opened(photos)


def test_files_of_one_stem_and_ids_that_are_taken_get_ids_of_their_own(photos: Path) -> None:
    photo(photos / "a.png")
    taken = {"item_id": "b", "image": "s3://s/b.png", "output": "sub/c.jpg", "regions": [BOX]}
    (photos / "manifest.jsonl").write_text(json.dumps(taken))
    session = opened(photos)
    for number in range(4):
        put(session, number, BOX)
    assert [(i.item_id, i.output) for i in items(photos)] == [
        ("b", "sub/c.jpg"),
        ("a.jpg", "a.jpg"),
        ("a.png", "a.png"),
        ("b.png", "b.png"),
        ("sub/c-2", "sub/c-2.jpg"),
    ]


def test_an_image_that_a_row_names_by_a_link_is_the_same_image(photos: Path) -> None:
    (photos.parent / "link").symlink_to(photos)
    row = {"item_id": "sku", "image": str(photos.parent / "link" / "a.jpg"), "regions": [BOX]}
    (photos / "manifest.jsonl").write_text(json.dumps(row))
    session = opened(photos)
    assert (session.elsewhere, session.overview()["counts"]) == (0, [1, 0, 0])


def test_strokes_without_end_are_refused(photos: Path) -> None:
    there_and_back = [[0, 0], [64, 48]] * 50_000
    strokes = [{"points": there_and_back, "width": 1}] * 3
    with pytest.raises(ItemError, match="px of strokes"):
        put(opened(photos), 0, BOX | {"box": None, "mask": {"strokes": strokes}})


def test_links_out_of_the_folder_hidden_files_and_names_no_manifest_can_hold_are_passed_over(photos: Path) -> None:
    photo(photos.parent / "secret.jpg")
    (photos / "link.jpg").symlink_to(photos.parent / "secret.jpg")
    (photos / "line\nbreak.jpg").write_bytes((photos / "a.jpg").read_bytes())
    photo(photos / ".hidden" / "x.jpg")
    listed = list_images(str(photos))
    assert [image.name for image in listed.images] == ["a.jpg", "b.png", "sub/c.jpg"]
    assert listed.passed_over == 2
    assert [image.name for image in list_images(str(photos / "b.png")).images] == ["b.png"]
    for nowhere in (str(photos / "none"), "s3://bucket/photos"):
        with pytest.raises(JobError):
            list_images(nowhere)
