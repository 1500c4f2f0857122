"""The same habits of spreadsheets and data frames in every table: manifest, sources, annotations, regions."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from refine_ops.config import AccessSettings
from refine_ops.data.source_manifest import read_manifest
from refine_ops.errors import JobError
from refine_ops.eval.cases.annotations import read_annotations
from refine_ops.job.planning.manifest import read_items
from refine_ops.job.planning.plan import make_plan
from refine_ops.job.planning.rows import RowProblem
from refine_ops.records import Item
from refine_ops.report.config import FolderPair
from refine_ops.report.folders import folder_items

A = {"item_id": "a", "image": "photo.png", "box": [50, 50, 90, 90], "prompt": "x"}
FLOATS = {"item_id": 7.0, "image": "photo.png", "category": 12}
B = {"item_id": "b", "image": "photo.png", "box": [20, 20, 60, 60], "prompt": "x"}


def items(folder: Path, name: str, data: bytes | str) -> list[Item]:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    found = list(read_items(str(folder / name)))
    problems = [p for p in found if isinstance(p, RowProblem)]
    assert not problems, problems
    return [item for item in found if isinstance(item, Item)]


def lines(*rows: dict[str, object]) -> str:
    return "\n".join(map(json.dumps, rows))


def test_blank_rows_of_excel_are_no_rows(tmp_path: Path) -> None:
    text = 'item_id,image,box,prompt\na,photo.png,"50,50,90,90",x\nb,photo.png,"20,20,60,60",x\n,,,\n,,,\n'
    assert [(i.item_id, i.row) for i in items(tmp_path, "m.csv", text)] == [("a", 2), ("b", 3)]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_manifest_of_european_excel(tmp_path: Path, separator: str) -> None:
    text = "item_id;image;box;prompt\na;photo.png;50,50,90,90;x\n".replace(";", separator)
    [item] = items(tmp_path, "m.csv", text)
    assert item.regions[0].box == (50, 50, 90, 90)


@pytest.mark.parametrize("form", ["jsonl", "nested", "parquet"])
def test_empty_strings_are_absent_values(tmp_path: Path, form: str) -> None:
    empty = {"mask": "", "reference": "", "scribble": "", "seed": "", "paste": "", "region_id": ""}
    rows = [{**A, **empty}, {**B, **empty, "reference": "photo.png"}]
    if form == "nested":
        rows = [{k: r.pop(k) for k in ("item_id", "image")} | {"output": "", "regions": [r]} for r in rows]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t")
        found = items(tmp_path, "m.parquet", (tmp_path / "t").read_bytes())
    else:
        found = items(tmp_path, "m.jsonl", lines(*rows))
    assert [i.regions[0].reference for i in found] == [None, str(tmp_path / "photo.png")]
    assert [(i.regions[0].mask, i.regions[0].seed, i.regions[0].region_id) for i in found] == [(None, None, "0")] * 2


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.jsonl", lines({**A, "item_id": 7.0, "seed": 7.0, "category": 12.0, "region_id": 3.0})),
        ("m.jsonl", lines({**FLOATS, "regions": [{"box": [1.0, 1, 9, 9], "prompt": "x", "seed": 7, "region_id": 3}]})),
        ("m.csv", 'item_id,image,box,prompt,seed,category,region_id\n7,p.png,"20.0,20.0,60.0,60.0",x,7.0,12,3\n'),
    ],
)  # fmt: skip
def test_whole_numbers_that_became_floats_are_whole(tmp_path: Path, name: str, data: str) -> None:
    [item] = items(tmp_path, name, data)
    assert (item.item_id, item.category, item.regions[0].region_id) == ("7", "12", "3")
    assert item.regions[0].seed == 7


def test_a_seed_that_a_float_cannot_hold_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(lines({**A, "seed": float(1 << 60)}))
    [problem] = read_items(str(tmp_path / "m.jsonl"))
    assert isinstance(problem, RowProblem)
    assert problem.reason == "seed.invalid"
    assert "not exact as a float" in problem.message


def test_a_pandas_index_and_a_polars_category(tmp_path: Path) -> None:
    ids = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.uint32()), pa.array(["a", "b"]))
    columns = {"item_id": ids, "image": ["photo.png"] * 3, "box": [[1, 2, 3, 4]] * 3, "prompt": ["x", "y", "z"]}
    table = pa.table({**columns, "__index_level_0__": [5, 6, 9]})
    pandas = json.dumps({"index_columns": ["__index_level_0__"]})
    pq.write_table(table.replace_schema_metadata({"pandas": pandas}), tmp_path / "t")
    found = items(tmp_path, "m.parquet", (tmp_path / "t").read_bytes())
    assert [(i.item_id, [r.prompt for r in i.regions]) for i in found] == [("b", ["x", "z"]), ("a", ["y"])]


def test_flat_rows_find_each_other_whatever_type_their_id_has(tmp_path: Path) -> None:
    found = items(tmp_path, "m.jsonl", lines({**A, "item_id": 7}, B, {**A, "item_id": "7"}, {**A, "item_id": 7.0}))
    assert [(i.item_id, len(i.regions), i.row) for i in found] == [("7", 3, 1), ("b", 1, 2)]


def test_regions_may_be_json_in_a_cell(tmp_path: Path) -> None:
    cell = json.dumps([{"box": [1, 2, 3, 4], "prompt": "x"}]).replace('"', '""')
    [item] = items(tmp_path, "m.csv", f'item_id,image,regions\na,p.png,"{cell}"\n')
    assert item.regions[0].box == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("name", "bad", "reason"),
    [
        ("m.jsonl", "{broken", "row.unreadable"),
        ("m.jsonl", '{"image": "photo.png", "box": [1, 2, 3, 4], "prompt": "x"}', "item_id.missing"),
        ("m.jsonl", '{"item_id": null, "image": "photo.png", "regions": [{"box": [1, 2, 3, 4]}]}', "item_id.missing"),
        ("m.jsonl", "[1, 2]", "row.unreadable"),
        ("m.csv", "c,photo.png,1,2,3,4,x", "row.unreadable"),
        ("m.csv", ',photo.png,"1,2,3,4",x', "item_id.missing"),
        ("m.csv", 'c,photo.png,"1,2,3,4', "row.unreadable"),
        ("m.csv", 'c,photo.png,"1,2,3,four",x', "box.invalid"),
        ("m.csv", 'c,,"1,2,3,4",x', "image.missing"),
    ],
)
def test_a_fault_costs_its_row_alone_and_its_number_is_the_editor_s(
    tmp_path: Path, name: str, bad: str, reason: str
) -> None:
    good = ['a,photo.png,"50,50,90,90",x', 'b,photo.png,"20,20,60,60",x']
    text = "\n".join(["item_id,image,box,prompt", good[0], "", bad, good[1]])
    if name == "m.jsonl":
        text = "\n".join([json.dumps(A), "", "", bad, json.dumps(B)])
    (tmp_path / name).write_text(text)
    found = list(read_items(str(tmp_path / name)))
    assert sorted(i.item_id for i in found if isinstance(i, Item)) == ["a", "b"]
    [problem] = [p for p in found if isinstance(p, RowProblem)]
    assert (problem.row, problem.reason, problem.fatal) == (4, reason, False)


@pytest.mark.parametrize(
    ("name", "data"),
    [("m.jsonl", b"\n"), ("m.csv", b"item_id,image,box,prompt\n,,,\n"), ("m.csv", b""), ("m.parquet", None)],
)
def test_an_empty_manifest_is_no_success(tmp_path: Path, name: str, data: bytes | None) -> None:
    if data is None:
        pq.write_table(
            pa.table({"item_id": pa.array([], pa.string()), "image": pa.array([], pa.string())}), tmp_path / name
        )
    else:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(JobError, match=r"no rows; set allow_empty"):
        make_plan(str(tmp_path / name), str(tmp_path / "run"), access=AccessSettings())
    assert not (tmp_path / "run").exists()
    assert make_plan(str(tmp_path / name), str(tmp_path / "run"), access=AccessSettings(), allow_empty=True).items == 0


SOURCE = {"image": "a.png", "box": [50, 40, 120, 110], "description": "the collar"}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.jsonl", "\ufeff" + lines({**SOURCE, "source_id": "2026-05-01", "licence": "NA"}) + "\n\n"),
        ("m.jsonl", lines({**SOURCE, "source_id": "2026-05-01", "licence": "NA", "reference": "", "families": ""})),
        ("m.csv", "image;box;description;source_id;licence\na.png;50,40,120,110;the collar;2026-05-01;NA\n;;;;\n"),
        ("m.csv", '\ufeff,image,box,description,source_id,licence\n0,a.png,"50,40,120,110",the collar,2026-05-01,NA\n'),
        (
            "m.csv",
            'image,box,description,source_id,licence\na.png,"[50.0, 40.0, 120.0, 110.0]",the collar,2026-05-01,NA\n',
        ),
    ],
    ids=["bom-and-blank-line", "empty-strings", "semicolons-and-blank-row", "pandas-index", "floats"],
)
def test_sources_are_read_alike_and_text_stays_text(tmp_path: Path, name: str, data: str) -> None:
    [row] = read_manifest(data.encode(), str(tmp_path / name), AccessSettings())
    assert row.problem is None
    assert (row.source_id, row.licence, row.box) == ("2026-05-01", "NA", (50, 40, 120, 110))
    assert (row.description, row.reference, row.families) == ("the collar", None, ())


def test_a_source_that_cannot_be_read_costs_its_row_alone(tmp_path: Path) -> None:
    data = (json.dumps(SOURCE) + "\n{broken\n" + json.dumps({**SOURCE, "source_id": 7.0})).encode()
    found = read_manifest(data, str(tmp_path / "m.jsonl"), AccessSettings())
    assert [(r.source_id, r.problem and r.problem[0]) for r in found] == [
        *(("row-000000", None), ("row-000001", "row.unreadable"), ("7", None))
    ]


NOTE = {
    "case_id": "cup", "image": "a.png", "object_box": [1, 2, 30, 40], "setting": "free", "category": "object",
    "instruction": "Restore the cup\u2028and its rim", "source": "own", "licence": "CC0-1.0",
}  # fmt: skip


def test_annotations_are_read_alike_from_every_format(tmp_path: Path) -> None:
    for number, (name, data) in enumerate(
        [
            ("annotations.jsonl", "\ufeff" + json.dumps({**NOTE, "reference": ""}, ensure_ascii=False) + "\n\n"),
            ("annotations.csv", ";".join(NOTE) + "\n" + ";".join(str(v) for v in NOTE.values()) + "\n;;;;;;;\n"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_text(data)
        [row], faults = read_annotations(str(folder))
        assert not faults
        assert (row.object_box, row.instruction, row.reference) == ((1, 2, 30, 40), NOTE["instruction"], None)


def test_a_bad_annotation_is_left_out_and_named_by_its_line(tmp_path: Path) -> None:
    rows = [NOTE, {**NOTE, "case_id": "b", "category": "logo"}, NOTE, {**NOTE, "case_id": "c"}]
    (tmp_path / "annotations.jsonl").write_text(lines(*rows) + "\n{broken\n")
    found, faults = read_annotations(str(tmp_path))
    assert [row.case_id for row in found] == ["cup", "c"]
    assert [where.rsplit(", ", 1)[1] for where in faults] == ["line 2", "line 3", "line 5"]
    (tmp_path / "annotations.jsonl").write_text("{broken\n")
    with pytest.raises(JobError, match="line 1: not JSON"):
        read_annotations(str(tmp_path))


@pytest.fixture
def pair(tmp_path: Path) -> FolderPair:
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photo.png").write_bytes(b"")
    return FolderPair(before=str(tmp_path / "before"), after=str(tmp_path / "after"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("r.jsonl", '{"image": "photo.png", "box": [50, 50, 90, 90], "prompt": "first\u2028second"}'),
        ("r.jsonl", '\ufeff{"image": "photo.png", "box": [50, 50, 90, 90], "mask": ""}'),
        ("r.jsonl", '{"image": "photo.png", "box": [50.0, 50.0, 90.0, 90.0]}\n\n'),
        ("r.csv", "image;box;note\nphoto.png;50,50,90,90;anything\n;;\n"),
    ],
    ids=["u2028", "bom-and-empty-mask", "blank-line-and-floats", "csv"],
)
def test_regions_of_two_folders_are_read_alike(tmp_path: Path, pair: FolderPair, name: str, data: str) -> None:
    (tmp_path / name).write_text(data)
    [case] = folder_items(pair.model_copy(update={"regions": str(tmp_path / name)}))
    assert (case.status, [r.box for r in case.regions]) == ("done", [(50, 50, 90, 90)])


def test_a_region_that_cannot_be_understood_is_its_image_s_problem(tmp_path: Path, pair: FolderPair) -> None:
    for folder in ("before", "after"):
        (tmp_path / folder / "other.png").write_bytes(b"")
    rows = [{"image": "other.png", "box": [1, 2]}, {"image": "photo.png", "box": [1, 2, 3, 4]}]
    (tmp_path / "r.jsonl").write_text(lines(*rows) + "\n{broken\n")
    found = {c.item_id: c for c in folder_items(pair.model_copy(update={"regions": str(tmp_path / "r.jsonl")}))}
    assert {name: (c.status, c.reason) for name, c in found.items()} == {
        "other": ("dead", "regions.invalid"),
        "photo": ("done", ""),
        "r.jsonl, line 3": ("dead", "regions.invalid"),
    }
    assert "line 1" in found["other"].message
