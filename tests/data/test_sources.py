"""Manifests and plans: rows checked one by one, seeds by id, splits pure by source image."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine_ops import storage
from refine_ops.config import AccessSettings, ImageLimits
from refine_ops.data.plan import (
    PlannedSample,
    from_table,
    plan_rows,
    plan_synthetic,
    sample_seed,
    split_groups,
    to_table,
)
from refine_ops.data.source_manifest import SourceRow, read_manifest
from refine_ops.data.stages.read import read_pair
from refine_ops.errors import JobError
from refine_ops.image.formats.png_pixels import encode_png

ANYWHERE = AccessSettings()


def rows(tmp_path: Path, *values: dict[str, object]) -> list[SourceRow]:
    text = "\n".join(json.dumps(v) for v in values)
    return read_manifest(text.encode(), str(tmp_path / "manifest.jsonl"), ANYWHERE)


def test_one_table_reads_alike_from_jsonl_csv_and_parquet(tmp_path: Path) -> None:
    value = {
        "image": "a.png", "box": "1,2,30,40", "description": "the  label\n", "families": "shop;night",
        "licence": "CC0", "source_id": "007",
    }  # fmt: skip
    table = pa.Table.from_pylist([value])
    pq.write_table(table, tmp_path / "m.parquet")
    header, line = ",".join(value), ",".join(f'"{v}"' for v in value.values())
    files = {
        "m.jsonl": json.dumps({**value, "box": [1, 2, 30, 40], "families": ["shop", "night"]}).encode(),
        "m.csv": f"{header}\n{line}\n".encode(),
        "m.parquet": (tmp_path / "m.parquet").read_bytes(),
    }
    expected = SourceRow(
        "007", str(tmp_path / "a.png"), None, (1, 2, 30, 40), None, "the label", ("shop", "night"), "CC0"
    )
    for name, data in files.items():
        assert read_manifest(data, str(tmp_path / name), ANYWHERE) == [expected], name


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"image": ""}, "row.no_image"),
        ({"image": "http://host/a.png"}, "uri.scheme"),
        ({"image": "a.png", "box": "1,2,3"}, "box.unreadable"),
        ({"image": "a.png", "box": "1,2,3,x"}, "box.unreadable"),
        ({"image": "a.png", "box": [1.5, 2, 3, 4]}, "box.unreadable"),
        ({"image": "a.png", "box": [1, 2, 3, 1 << 40]}, "box.unreadable"),
        ({"image": "a.png", "box": "1,2,3,1e999"}, "box.unreadable"),
        ({"image": "a.png", "box": [5, 2, 3, 4]}, "box.inverted"),
        ({"image": "a.png", "box": [-1, 2, 3, 4]}, "box.inverted"),
        ({"image": "a.png", "source_id": "../../etc"}, "row.bad_id"),
        ({"image": "a.png", "source_id": ".."}, "row.bad_id"),
        ({"image": "a.png", "description": "x" * 201}, "description.too_long"),
    ],
)
def test_a_bad_row_is_a_problem_of_its_own(tmp_path: Path, value: dict[str, object], reason: str) -> None:
    bad, good = rows(tmp_path, value, {"image": "b.png"})
    assert good.problem is None
    assert bad.problem is not None
    assert bad.problem[0] == reason


def test_ids_are_unique_and_the_later_row_pays(tmp_path: Path) -> None:
    found = rows(tmp_path, *[{"image": f"{i}.png", "source_id": "same"} for i in range(3)])
    assert [r.problem and r.problem[0] for r in found] == [None, "row.duplicate_id", "row.duplicate_id"]
    assert len({r.source_id for r in found}) == 3


def test_rows_outside_the_allowed_roots_are_refused(tmp_path: Path) -> None:
    access = AccessSettings(roots=(str(tmp_path / "photos"),))
    data = b'{"image": "photos/a.png"}\n{"image": "photos/../secret.png"}'
    found = read_manifest(data, str(tmp_path / "m.jsonl"), access)
    assert [r.problem and r.problem[0] for r in found] == [None, "uri.forbidden"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.txt", b"x"),
        ("m.jsonl", b"not json"),
        ("m.parquet", b"PAR1 not really"),
        ("m.jsonl", b'{"picture": "a.png"}'),
        ("m.jsonl", b'{"image": "a.png", "boxx": "1,2,3,4"}'),
        ("m.csv", b"image,box\n"),
    ],
)
def test_what_is_no_manifest_stops_the_job(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(JobError):
        read_manifest(data, str(tmp_path / name), ANYWHERE)


def test_a_control_character_cannot_reach_an_instruction(tmp_path: Path) -> None:
    found = rows(tmp_path, {"image": "a.png", "description": "cup\x1b[31m\r\n## title‮"})
    assert found[0].description == "cup [31m ## title"


hashes = st.lists(st.tuples(*[st.integers(0, 25).map(lambda i: f"hash-{i}")] * 2), min_size=1, max_size=40)


@given(hashes, st.integers(0, 99), st.floats(0.01, 0.9))
def test_no_image_is_in_both_splits_whatever_links_them(links: list[tuple[str, str]], seed: int, share: float) -> None:
    split_of = split_groups(links, seed, share)
    assert all(split_of[a] == split_of[b] for a, b in links)
    assert split_groups(list(reversed(links)), seed, share) == split_of
    groups = _groups(links)
    if groups > 1:
        assert set(split_of.values()) == {"train", "validation"}


def _groups(links: list[tuple[str, str]]) -> int:
    sets: list[set[str]] = []
    for link in links:
        joined = set(link).union(*(s for s in sets if s & set(link)))
        sets = [s for s in sets if not s & set(link)] + [joined]
    return len(sets)


@given(st.integers(3, 60), st.integers(0, 9))
def test_a_group_that_joins_moves_at_most_the_extremes(count: int, seed: int) -> None:
    links = [(f"hash-{i}",) for i in range(count)]
    before, after = (split_groups(x, seed, 0.2) for x in (links, [*links, ("another",)]))
    assert sum(before[k] != after[k] for k in before) <= 1


def test_the_share_of_validation_is_about_what_was_asked_for() -> None:
    links = [(f"hash-{i}",) for i in range(4000)]
    split_of = split_groups(links, 0, 0.1)
    assert 0.08 < sum(s == "validation" for s in split_of.values()) / 4000 < 0.12
    assert set(split_groups(links, 0, 0.0).values()) == {"train"}


def test_a_plan_survives_parquet_and_counts_every_sample(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"A")
    (tmp_path / "b.png").write_bytes(b"B")
    (tmp_path / "copy_of_a.png").write_bytes(b"A")
    found = rows(
        tmp_path,
        {"image": "a.png", "box": "1,2,3,4", "families": "x;y"},
        {"image": "copy_of_a.png", "reference": "b.png"},
        {"image": "missing.png"},
        {"image": ""},
    )
    plan = plan_rows(found, 3, seed=5, validation_share=0.5, limits=ImageLimits())
    assert len(plan) == 12
    assert len({c.sample_id for c in plan}) == 12
    assert from_table(to_table(plan)) == plan
    assert plan[0].image_sha256 == plan[3].image_sha256
    assert len({c.split for c in plan[:6]}) == 1
    assert plan[6].row is not None
    assert plan[6].row.problem is not None
    assert plan[6].row.problem[0] == "file.missing"


def test_a_sample_keeps_its_seed_and_split_when_more_are_asked_for() -> None:
    short, long = plan_synthetic(50, 3, 0.1), plan_synthetic(200, 3, 0.1)
    assert long[:50] == short
    assert {c.split for c in long} == {"train", "validation"}
    assert sample_seed(1, "a") != sample_seed(2, "a") != sample_seed(2, "b")
    assert all(0 <= c.seed < 1 << 63 for c in long)


def test_a_cut_out_of_something_white_is_read_on_a_ground_that_shows_it(tmp_path: Path) -> None:
    """Over white it would teach a model to paint blank sheets."""
    rgba = np.zeros((40, 60, 4), np.uint8)
    rgba[10:30, 10:50] = 255
    data = encode_png(rgba)
    (tmp_path / "shirt.png").write_bytes(data)
    row = SourceRow("s", str(tmp_path / "shirt.png"))
    _, target, _ = read_pair(PlannedSample("s-0", "train", 0, 0, row, storage.sha256(data)), ImageLimits(), None)
    assert (target[10:30, 10:50] == 255).all()
    assert (target[:5] == 0).all()
