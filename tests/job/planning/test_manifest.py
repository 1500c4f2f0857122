"""Manifests as users write them: three formats, two forms, and everything that can be wrong with a row."""

from dataclasses import replace
from pathlib import Path

import pytest

from refine_ops.config import AccessSettings
from refine_ops.errors import JobError
from refine_ops.job.planning.manifest import read_items
from refine_ops.job.planning.plan import PlanReader, make_plan, request_of
from refine_ops.job.planning.rows import RowProblem
from refine_ops.records import Item, Region, Scribble
from tests.support.manifests import BOX, MASK, SCRIBBLE, flat, nested, write


@pytest.mark.parametrize(
    ("name", "rows"),
    [("m.parquet", nested()), ("m.jsonl", nested()), ("m.parquet", flat()), ("m.jsonl", flat()), ("m.csv", flat())],
    ids=["parquet-nested", "jsonl-nested", "parquet-flat", "jsonl-flat", "csv-flat"],
)
def test_every_format_and_form_says_the_same(folder: Path, name: str, rows: list[dict]) -> None:
    first, second = read_items(write(folder / name, rows))
    assert isinstance(first, Item)
    assert isinstance(second, Item)
    assert first.image == str(folder / "a.jpg")
    assert first.output == "a.jpg"
    assert [r.region_id for r in first.regions] == ["0", "1"]
    assert first.regions[0].box == (1, 2, 30, 40)
    assert first.regions[1].scribble == Scribble((((1.5, 2.0), (8.0, 9.0)), ((3.0, 3.0),)), 4.0)
    assert first.regions[1].seed == 7
    assert (second.output, second.category) == ("x/y.png", "shoes")
    assert (second.regions[0].mask, second.regions[0].reference) == (str(folder / "m.png"), str(folder / "ref.png"))
    assert second.regions[0].paste == "box"


@pytest.mark.parametrize("name", ["m.parquet", "m.jsonl", "m.csv"])
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"mask_level": 64}, (64, None, False)),
        ({"mask_class": 0, "mask_invert": True}, (None, 0, True)),
        ({"mask_class": 7.0, "mask_invert": False}, (None, 7, False)),
        ({}, (None, None, False)),
    ],
)
def test_how_a_mask_is_read_is_told_in_every_format(folder: Path, name: str, told: dict, expected: tuple) -> None:
    shared = {k: v for k, v in nested()[1].items() if k != "regions"}
    (item,) = read_items(write(folder / name, [{**shared, **MASK, **told}]))
    assert isinstance(item, Item)
    (region,) = item.regions
    assert (region.mask_level, region.mask_class, region.mask_invert) == expected
    plan = make_plan(str(folder / name), str(folder / "run"), access=AccessSettings())
    assert PlanReader(plan.uri).item(0)[0].regions == item.regions


def test_requests_made_before_a_field_existed_keep_their_hash() -> None:
    """Or every finished item of every run folder would be refined again."""
    regions = (
        Region("0", "Refine", box=(1, 2, 30, 40)),
        Region("1", "Refine", mask="/in/m.png", paste="box", seed=7),
    )
    item = Item("a", "/in/a.jpg", "a.jpg", regions, 0)
    assert request_of(item) == "de2876dcecfb2d420af019d37a6ca72a"
    told = replace(item, regions=(regions[0], replace(regions[1], mask_invert=True)))
    assert request_of(told) != request_of(item)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": ""}, "image.missing"),
        ({"item_id": ""}, "item_id.missing"),
        ({"regions": []}, "regions.none"),
        ({"regions": [{**BOX, "prompt": "  "}]}, "prompt.empty"),
        ({"regions": [{**BOX, "prompt": "x" * 4097}]}, "prompt.too_long"),
        ({"regions": [{**BOX, "box": [30, 2, 1, 40]}]}, "box.inverted"),
        ({"regions": [{**BOX, "box": [-1, 2, 3, 4]}]}, "box.outside"),
        ({"regions": [{**BOX, "box": [1, 2, 3]}]}, "box.invalid"),
        ({"regions": [{**BOX, "box": [1.5, 2, 3, 4]}]}, "box.invalid"),
        ({"regions": [{"prompt": "p"}]}, "region.shape"),
        ({"regions": [{**BOX, "mask": "m.png"}]}, "region.shape"),
        ({"regions": [{**SCRIBBLE, "scribble": {"strokes": [], "width": 3}}]}, "scribble.invalid"),
        ({"regions": [{**SCRIBBLE, "scribble": {"strokes": [[[1, 2]]], "width": 0}}]}, "scribble.width"),
        ({"regions": [{**BOX, "seed": -1}]}, "seed.invalid"),
        ({"regions": [{**BOX, "paste": "all"}]}, "paste.invalid"),
        ({"regions": [{**BOX, "mask_level": 3}]}, "mask.setting"),
        ({"regions": [{**MASK, "mask_level": 3, "mask_class": 3}]}, "mask.setting"),
        ({"regions": [{**MASK, "mask_level": 0}]}, "mask.setting"),
        ({"regions": [{**MASK, "mask_class": "tree"}]}, "mask.setting"),
        ({"regions": [{**MASK, "mask_class": 1.5}]}, "mask.setting"),
        ({"regions": [{**MASK, "mask_invert": "maybe"}]}, "mask.setting"),
        ({"regions": [{**BOX, "region_id": "r"}, {**BOX, "region_id": "r"}]}, "region_id.duplicate"),
        ({"regions": [{**BOX, "reference": "https://example.org/r.png"}]}, "uri.scheme"),
        ({"image": "http://example.org/a.jpg"}, "uri.scheme"),
        ({"output": "../evil.jpg"}, "output.escapes"),
        ({"output": "/etc/passwd"}, "output.escapes"),
        ({"output": "a\\..\\..\\evil"}, "output.escapes"),
        ({"item_id": "a/../../evil"}, "output.escapes"),
    ],
)
def test_a_bad_row_has_its_reason_and_the_next_row_is_read(folder: Path, change: dict, reason: str) -> None:
    rows = [{**nested()[0], **change}, nested()[1]]
    bad, good = read_items(write(folder / "m.jsonl", rows))
    assert isinstance(bad, RowProblem)
    assert bad.reason == reason
    assert isinstance(good, Item)


def test_rows_of_one_item_that_disagree_are_a_problem(folder: Path) -> None:
    rows = [{"item_id": "a", "image": "a.jpg", **BOX}, {"item_id": "a", "image": "b.jpg", **BOX}]
    (problem,) = read_items(write(folder / "m.jsonl", rows))
    assert isinstance(problem, RowProblem)
    assert problem.reason == "item.conflict"


def test_an_unknown_column_is_refused_with_a_suggestion(folder: Path) -> None:
    with pytest.raises(JobError, match=r"unknown column 'referense'.*did you mean 'reference'"):
        list(read_items(write(folder / "m.jsonl", [{"item_id": "a", "image": "a.jpg", **BOX, "referense": "r"}])))


@pytest.mark.parametrize(
    "rows",
    [
        [nested()[0], nested()[0]],
        [nested()[0], {**nested()[1], "output": "a.jpg"}],
        [nested()[0], {**nested()[1], "output": "./q/../a.jpg"}],
        [{**nested()[0], "output": "x"}, nested()[1]],
        [{**nested()[0], "image": "ftp://h/a.jpg"}, nested()[1]],
        [{**nested()[0], "output": "../a.jpg"}, nested()[1]],
    ],
    ids=["same-id", "same-output", "same-output-spelled-differently", "file-and-folder", "scheme", "escape"],
)
def test_a_manifest_that_cannot_be_meant_is_refused_before_anything_is_written(folder: Path, rows: list[dict]) -> None:
    manifest = write(folder / "m.jsonl", rows)
    with pytest.raises(JobError, match="refused, nothing was run"):
        make_plan(manifest, str(folder / "run"), access=AccessSettings())
    assert not (folder / "run").exists()


def test_the_plan_keeps_every_item_and_bounds_its_shards(folder: Path) -> None:
    rows = [{**nested()[i % 2], "item_id": f"i{i}", "output": None} for i in range(25)]
    manifest = write(folder / "m.parquet", rows)
    plan = make_plan(manifest, str(folder / "run"), access=AccessSettings(), shard_items=10)
    assert (plan.items, plan.regions, plan.shards) == (25, 38, 3)
    reader = PlanReader(plan.uri)
    assert [reader.item(p)[0] for p in range(25)] == list(read_items(manifest))
    assert make_plan(manifest, None, access=AccessSettings(), limit=4).items == 4


def test_only_allowed_roots_and_buckets_may_be_named(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "in" / "link").symlink_to("/etc")
    access = AccessSettings(roots=(str(folder / "in"),), buckets=("photos",))
    images = [
        "in/a.jpg",
        "in/link/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "s3://photos/a.jpg",
        "s3://other/a.jpg",
    ]
    rows = [{"item_id": str(i), "image": image, "regions": [BOX]} for i, image in enumerate(images)]
    parsed = list(read_items(write(folder / "m.jsonl", rows), access))
    assert [getattr(p, "reason", "ok") for p in parsed] == ["ok", *["uri.forbidden"] * 3, "ok", "uri.forbidden"]


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense", b"\x00\xff"])
def test_a_manifest_that_is_no_parquet_is_a_clear_error(folder: Path, content: bytes) -> None:
    (folder / "m.parquet").write_bytes(content)
    with pytest.raises(JobError, match="not a readable Parquet file"):
        list(read_items(str(folder / "m.parquet")))


def test_outputs_that_a_change_of_format_would_make_one_are_refused(folder: Path) -> None:
    rows = [{"item_id": n, "image": "a.jpg", "output": f"shoes/1.{n}", "regions": [BOX]} for n in ("jpg", "png")]
    manifest = write(folder / "m.jsonl", rows)
    assert make_plan(manifest, None, access=AccessSettings()).items == 2
    with pytest.raises(JobError, match=r"'shoes/1' is the output without suffix .* rows \[1, 2\]"):
        make_plan(manifest, None, access=AccessSettings(), any_suffix=True)
