"""Tables as spreadsheets, data frames and editors leave them: the same rows come out of every one."""

import datetime
import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from refine_ops.cells import forging_character, numbers_of, pixels_of, text_of, whole_of
from refine_ops.errors import JobError
from refine_ops.tables.read import open_table
from refine_ops.tables.table import Row

KNOWN = ("item_id", "image", "box", "prompt", "seed")
ROWS = [
    {"item_id": "007", "image": "a.png", "box": "50,50,90,90", "prompt": "NA"},
    {"item_id": "2026-05-01", "image": "b.png", "box": "20,20,60,60", "prompt": "true"},
]
HEADER = "item_id,image,box,prompt"
A, B = '007,a.png,"50,50,90,90",NA', '2026-05-01,b.png,"20,20,60,60",true'


def read(path: Path, data: bytes | None = None, known: tuple[str, ...] | None = KNOWN) -> list[Row]:
    if data is not None:
        path.write_bytes(data)
    return list(open_table(str(path), known).rows())


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (f"{HEADER}\n{A}\n{B}\n", (2, 3)),
        (f"{HEADER}\r\n{A}\r\n{B}", (2, 3)),
        (f"{HEADER}\r{A}\r{B}\r", (2, 3)),
        (f"\ufeff{HEADER}\n{A}\n{B}\n", (2, 3)),
        (f"\n{HEADER}\n\n{A}\n\n\n{B}\n\n", (4, 7)),
        (f"{HEADER}\n{A}\n,,,\n{B}\n,,,\n,,,\n", (2, 4)),
        (f"{HEADER},,\n{A},,\n{B},,\n", (2, 3)),
        (f",{HEADER}\n0,{A}\n17,{B}\n", (2, 3)),
        (f"Unnamed: 0,{HEADER}\n0,{A}\n1,{B}\n", (2, 3)),
        (f"item_id , image, box ,prompt\n{A}\n{B}\n", (2, 3)),
        ('item_id, image, box, prompt\n007, a.png, "50,50,90,90", NA\n2026-05-01, b.png, "20,20,60,60", true', (2, 3)),
        ("item_id;image;box;prompt\n007;a.png;50,50,90,90;NA\n2026-05-01;b.png;20,20,60,60;true\n", (2, 3)),
        ("sep=;\nitem_id;image;box;prompt\n007;a.png;50,50,90,90;NA\n2026-05-01;b.png;20,20,60,60;true\n", (3, 4)),
        ("item_id\timage\tbox\tprompt\n007\ta.png\t50,50,90,90\tNA\n2026-05-01\tb.png\t20,20,60,60\ttrue\n", (2, 3)),
        (f"{HEADER},seed\n{A}\n{B},\n", (2, 3)),
    ],
    ids=[
        *(
            "plain",
            "crlf",
            "cr",
            "bom",
            "blank-lines",
            "blank-rows",
            "trailing-commas",
            "pandas-index",
            "unnamed-index",
        ),
        *("spaced-header", "spaced-cells", "semicolons", "excel-sep", "tabs", "short-row"),
    ],
)
def test_csv_of_every_habit_says_the_same(tmp_path: Path, text: str, numbers: tuple[int, int]) -> None:
    found = read(tmp_path / "t.csv", text.encode())
    assert [row.values for row in found] == ROWS
    assert tuple(row.number for row in found) == numbers
    assert [row.problem for row in found] == ["", ""]


def test_excel_s_unicode_text_is_utf_16_with_tabs(tmp_path: Path) -> None:
    text = "item_id\timage\n007\tčaj.png\n"
    for encoding in ("utf-16", "utf-16-be"):
        data = text.encode(encoding) if encoding == "utf-16" else b"\xfe\xff" + text.encode(encoding)
        assert [r.values for r in read(tmp_path / "t.csv", data)] == [{"item_id": "007", "image": "čaj.png"}]


def test_a_quoted_cell_may_span_lines_and_the_next_row_still_has_its_line(tmp_path: Path) -> None:
    found = read(tmp_path / "t.csv", f'{HEADER}\n1,a.png,"1,2,3,4","two\nlines"\n{B}'.encode())
    assert [(r.number, r.values["prompt"]) for r in found] == [(2, "two\nlines"), (4, "true")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"1,a.png,50,50,90,90,NA", "7 cells, the header names 4; quote cells that hold ','"),
        (b"1,caf\xe9.png,,NA", "not UTF-8"),
        (b'1,"a.png,"50,50,90,90",NA', "',' expected"),
        (b'1,a.png,"50,50,90,90,NA', 'write "" for a quotation mark'),
    ],
    ids=["unquoted-box", "latin-1", "stray-quote", "unclosed-quote"],
)
def test_one_broken_row_of_csv_costs_that_row_alone(tmp_path: Path, line: bytes, said: str) -> None:
    data = b"\n".join([HEADER.encode(), A.encode(), line, B.encode(), A.encode()])
    found = read(tmp_path / "t.csv", data)
    assert [r.values for r in found if not r.problem] == [*ROWS, ROWS[0]]
    [bad] = [r for r in found if r.problem]
    assert bad.number == 3
    assert bad.problem.startswith("line 3: ")
    assert said in bad.problem


@pytest.mark.timeout(30)
def test_quotation_marks_that_never_close_do_not_take_for_ever(tmp_path: Path) -> None:
    data = f"{HEADER}\n{A}\n".encode() + b'x,"y\n' * 19_999
    found = read(tmp_path / "t.csv", data)
    assert len(found) == 20_000
    assert sum(not r.problem for r in found) == 1
    assert found[-1].problem.startswith("line 20001: a quotation mark is never closed")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("{0}\n{1}", (1, 2)),
        ("\ufeff{0}\n{1}\n", (1, 2)),
        ("\n{0}\r\n   \n{1}\n\n", (2, 4)),
        ("{0}\n{{}}\n{1}\n", (1, 3)),
    ],
    ids=["plain", "bom", "blank-lines", "empty-object"],
)
def test_json_lines_of_every_habit_say_the_same(tmp_path: Path, text: str, numbers: tuple[int, int]) -> None:
    found = read(tmp_path / "t.jsonl", text.format(*map(json.dumps, ROWS)).encode())
    assert [(r.number, r.values) for r in found] == list(zip(numbers, ROWS, strict=True))


def test_a_line_separator_inside_a_string_ends_no_line(tmp_path: Path) -> None:
    row = {"item_id": "a", "prompt": "first\u2028second\u2029third\x85"}
    assert [r.values for r in read(tmp_path / "t.jsonl", json.dumps(row, ensure_ascii=False).encode())] == [row]


@pytest.mark.parametrize("line", [b"{", b"[1]", b"caf\xe9", b'{"item_id": "\xe9"}', b"[" * 100_000, b"nonsense"])
def test_one_broken_line_costs_that_line_alone(tmp_path: Path, line: bytes) -> None:
    data = b"\n".join([json.dumps(ROWS[0]).encode(), line, json.dumps(ROWS[1]).encode()])
    found = read(tmp_path / "t.jsonl", data)
    assert [r.values for r in found] == [ROWS[0], {}, ROWS[1]]
    assert found[1].problem.startswith("line 2: ")
    with pytest.raises(JobError, match="line 1: "):
        read(tmp_path / "t.jsonl", line)


def test_what_is_not_there_is_absent_however_it_is_said(tmp_path: Path) -> None:
    line = '{"item_id": "a", "image": "", "box": null, "prompt": "  ", "seed": NaN}'
    assert [r.values for r in read(tmp_path / "t.jsonl", line.encode())] == [{"item_id": "a"}]
    table = pa.table({"item_id": ["a", None], "image": ["", ""], "seed": [float("nan"), None], "prompt": [" ", None]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == [Row(0, {"item_id": "a"})]
    nested = {"item_id": "a", "regions": [{"mask": "", "box": None, "prompt": "x"}]}
    assert read(tmp_path / "n.jsonl", json.dumps(nested).encode(), None)[0].values["regions"] == [{"prompt": "x"}]


def pandas_table(columns: dict[str, list[object]], index: list[object]) -> pa.Table:
    """As `DataFrame.to_parquet` writes it: the index is a column, or nothing but metadata, named in the metadata."""
    table = pa.table(columns)
    return table.replace_schema_metadata({"pandas": json.dumps({"index_columns": index, "columns": []})})


@pytest.mark.parametrize(
    ("extra", "index"),
    [
        ({"__index_level_0__": [4, 9]}, ["__index_level_0__"]),
        ({"__index_level_0__": [4, 9], "__index_level_1__": ["x", "y"]}, []),
        ({"sku": ["x", "y"]}, ["sku"]),
        ({}, [{"kind": "range", "start": 0, "stop": 2, "step": 1, "name": None}]),
        ({}, ["item_id"]),
    ],
    ids=["filtered", "two-levels-after-a-copy", "named", "range", "a-known-column-is-the-index"],
)
def test_the_index_of_a_data_frame_is_no_column(
    tmp_path: Path, extra: dict[str, list[object]], index: list[object]
) -> None:
    columns: dict[str, list[object]] = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    pq.write_table(pandas_table({**columns, **extra}, index), tmp_path / "t.parquet")
    assert [r.values for r in read(tmp_path / "t.parquet")] == ROWS
    assert [r.number for r in read(tmp_path / "t.parquet")] == [0, 1]


@pytest.mark.parametrize("codes", [pa.uint8(), pa.uint32(), pa.int8(), pa.int64()], ids=str)
@pytest.mark.parametrize("gather", [False, True])
def test_categories_are_their_text(tmp_path: Path, codes: pa.DataType, gather: bool) -> None:
    ids = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1], codes), pa.array(["x", "y"]))
    pq.write_table(pa.table({"item_id": ids, "seed": [1, 2, 3, 4]}), tmp_path / "t.parquet")
    table = open_table(str(tmp_path / "t.parquet"), KNOWN)
    found = [
        (r.values.get("item_id"), r.values["seed"]) for r in (table.gathered("item_id") if gather else table.rows())
    ]
    plain = [("y", 1), ("x", 2), (None, 3), ("y", 4)]
    assert found == ([(None, 3), ("y", 1), ("y", 4), ("x", 2)] if gather else plain)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([datetime.date(2026, 5, 1)]), "2026-05-01"),
        (pa.array([datetime.datetime(2026, 5, 1)]), "2026-05-01"),
        (pa.array([datetime.datetime(2026, 5, 1, 9, 30)]), "2026-05-01T09:30:00"),
        (pa.array([decimal.Decimal("7.00")]), 7),
        (pa.array([b"caf\xc3\xa9"]), "café"),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array(["x"], pa.string_view()), "x"),
        (pa.array([7], pa.uint64()), 7),
    ],
    ids=["date", "midnight", "time", "decimal", "bytes", "large-string", "string-view", "uint64"],
)
def test_types_that_only_parquet_has_become_text_or_numbers(tmp_path: Path, values: pa.Array, expected: object) -> None:
    pq.write_table(pa.table({"item_id": values}), tmp_path / "t.parquet")
    table = open_table(str(tmp_path / "t.parquet"), KNOWN)
    assert [r.values for r in table.rows()] == [r.values for r in table.gathered("item_id")] == [{"item_id": expected}]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.csv", b"item_id,Prompt\n1,x\n", "unknown column 'Prompt'; did you mean 'prompt'"),
        ("t.csv", b"item_id,ITEM_ID \n1,x\n", "unknown column 'ITEM_ID'; did you mean 'item_id'"),
        ("t.csv", b"item_id,image,image\n1,x,y\n", "two columns have the same name"),
        ("t.jsonl", b'{"item_id": 1}\n{"zzz": 1}\n', r"line 2: unknown column 'zzz'\. Known are"),
        ("t.parquet", b"PAR1", "not a readable Parquet file"),
        ("t.xlsx", b"PK", "save the sheet as 'CSV UTF-8'"),
        ("t.csv", b'"item_id\n1\n', "the header cannot be read"),
    ],
)
def test_what_is_no_table_says_so(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    with pytest.raises(JobError, match=said):
        read(tmp_path / name, data)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str, data: bytes) -> None:
    assert read(tmp_path / name, data) == []


def test_a_damaged_page_is_an_error_with_the_file_s_name(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"item_id": [f"id-{i * 7919}" for i in range(5000)]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[2000:2400] = bytes(400)
    with pytest.raises(JobError, match=r"t\.parquet"):
        read(path, bytes(data))
    with pytest.raises(JobError, match=r"t\.parquet"):
        list(open_table(str(path), KNOWN).gathered("item_id"))


@pytest.mark.parametrize(
    ("value", "whole"),
    [
        *((7, 7), (7.0, 7), ("7", 7), ("7.0", 7), (" 7 ", 7), ("007", 7), (1 << 62, 1 << 62), (str(1 << 62), 1 << 62)),
        *((7.5, None), ("7.5", None), ("7e3", None), (True, None), (1e18, None), ("٧", None), (None, None), ("", None)),
    ],
)
def test_a_whole_number_is_one_whoever_wrote_it(value: object, whole: int | None) -> None:
    assert whole_of(value) == whole


@pytest.mark.parametrize(
    "value",
    [
        "1,2,3,4",
        "[1, 2, 3, 4]",
        "(1, 2, 3, 4)",
        "1 2 3 4",
        "[1. 2. 3. 4.]",
        "1;2;3;4",
        " 1.0, 2.0,3,4 ",
        [1, 2.0, 3, 4],
    ],
)
def test_a_box_is_four_whole_numbers_however_they_are_written(value: object) -> None:
    assert pixels_of(value) == (1, 2, 3, 4)


@pytest.mark.parametrize(
    "value", ["", "1,2,3", "1,,2,3", "1.5,2,3,4", "x", "1_0,2,3,4", "nan,1,2,3", [1, 2, 3, True], 7]
)
def test_what_is_no_box_is_none(value: object) -> None:
    assert pixels_of(value) is None


def test_numbers_are_finite_and_within_reach() -> None:
    assert numbers_of("1e999") == numbers_of([10**400]) == numbers_of([float("nan")]) == []
    assert numbers_of("-1.5e2, 3") == [-150.0, 3.0]
    assert [text_of(v) for v in (7, 7.0, 7.5, "7.0", True, None)] == ["7", "7", "7.5", "7.0", True, None]


@pytest.mark.parametrize("c", ["\u00a0", "\u202f", "\u200d", "\u200c", "\u3000", "\u00ad", "👩‍👧", "\u200e"])
def test_what_merely_cannot_be_seen_is_allowed_in_a_name(c: str) -> None:
    assert forging_character(f"a{c}b.png") is None


@pytest.mark.parametrize(
    ("c", "name"),
    [("\n", "U+000A"), ("\x1b", "U+001B"), ("\u2028", "LINE SEPARATOR"), ("\u202e", "RIGHT-TO-LEFT OVERRIDE")],
)
def test_what_forges_lines_or_turns_text_around_is_named(c: str, name: str) -> None:
    assert name in str(forging_character(f"a{c}b.png"))
