"""Names and keys as people have them: what is another file stays another file, what is harmless is allowed."""

import json
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from refine_ops import storage
from refine_ops.config import AccessSettings
from refine_ops.errors import Missing
from refine_ops.job.planning.manifest import read_items
from refine_ops.job.planning.rows import RowProblem
from refine_ops.records import Item
from refine_ops.report.config import FolderPair
from refine_ops.report.folders import folder_items

REGION = {"box": [0, 0, 9, 9], "prompt": "Refine it"}


def row(folder: Path, access: AccessSettings | None = None, **fields: object) -> Item | RowProblem:
    (folder / "m.jsonl").write_text(json.dumps({"item_id": "a", "image": "a.png", "regions": [REGION], **fields}))
    return next(read_items(str(folder / "m.jsonl"), access))


@pytest.mark.parametrize(
    ("base", "parts", "joined"),
    [
        ("s3://shop", ("a.png",), "s3://shop/a.png"),
        ("s3://shop/", ("a.png",), "s3://shop/a.png"),
        ("s3://shop//", ("a.png",), "s3://shop//a.png"),
        ("s3://shop/run", ("outputs", "x/a.png"), "s3://shop/run/outputs/x/a.png"),
        ("s3://shop/run/", ("outputs",), "s3://shop/run/outputs"),
        ("s3://shop/run//", ("a.png",), "s3://shop/run//a.png"),
        ("s3://shop/run", ("x//a.png",), "s3://shop/run/x//a.png"),
        ("s3://shop/run", ("./x/../a.png",), "s3://shop/run/a.png"),
        ("s3://shop/run", ("../../../a.png",), "s3://shop/a.png"),
    ],
)
def test_keys_are_joined_without_losing_a_slash(base: str, parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(base, *parts) == joined


@pytest.mark.parametrize(
    "uri", ["s3://b/a.png", "s3://b//a.png", "s3://b/x/a.png", "s3://b/x//a.png", "s3://b///a.png"]
)
def test_a_file_s_neighbour_lies_in_its_folder(uri: str) -> None:
    assert storage.join(storage.folder_of(uri), "a.png") == storage.resolve(uri) == uri
    assert storage.inside(uri, storage.folder_of(uri))


def test_a_prefix_that_ends_in_two_slashes_holds_only_its_own() -> None:
    assert not storage.inside("s3://b/x/a.png", "s3://b/x//")
    assert storage.inside("s3://b/x//a.png", "s3://b/x//")
    assert storage.inside("s3://b/x//a.png", "s3://b/x/")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    before = os.environ.get("AWS_ENDPOINT_URL")
    os.environ["AWS_ENDPOINT_URL"] = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3").create_bucket(Bucket="names")
    yield "names"
    server.stop()
    if before is None:
        del os.environ["AWS_ENDPOINT_URL"]
    else:
        os.environ["AWS_ENDPOINT_URL"] = before


@pytest.mark.processes
def test_a_key_with_a_leading_slash_is_another_object(bucket: str) -> None:
    for uri, data in ((f"s3://{bucket}//a.png", b"right"), (f"s3://{bucket}/a.png", b"wrong")):
        storage.write(uri, data)
    assert storage.read(storage.resolve(f"s3://{bucket}//a.png")) == b"right"
    assert storage.read(f"s3://{bucket}/a.png") == b"wrong"
    assert {u for u in storage.list_files(f"s3://{bucket}") if u.endswith("a.png")} == {
        *(f"s3://{bucket}//a.png", f"s3://{bucket}/a.png")
    }
    assert list(storage.list_files(f"s3://{bucket}//")) == [f"s3://{bucket}//a.png"]
    with pytest.raises(Missing):
        storage.read(f"s3://{bucket}//b.png")


NFC, NFD = (unicodedata.normalize(form, "Snímek/šaty čaj.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("written", "stored"), [(NFC, NFD), (NFD, NFC), (f"{NFC[:6]}/{NFD.split('/')[1]}", NFC)])
def test_composed_and_decomposed_names_find_each_other(tmp_path: Path, written: str, stored: str) -> None:
    (tmp_path / stored).parent.mkdir()
    (tmp_path / stored).write_bytes(b"x")
    region = {"mask": written, "reference": written, "prompt": "x"}
    item = row(tmp_path, image=written, regions=[region])
    assert isinstance(item, Item)
    assert [item.image, item.regions[0].mask, item.regions[0].reference] == [str(tmp_path / stored)] * 3
    with pytest.raises(Missing, match="NFC, NFD"):
        storage.read(str(tmp_path / written))


def test_a_name_found_by_its_letters_is_still_held_to_the_allowed_roots(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "in" / unicodedata.normalize("NFD", "č.png")).symlink_to(tmp_path / "secret.png")
    access = AccessSettings(roots=(str(tmp_path / "in"),))
    found = row(tmp_path / "in", access, image=unicodedata.normalize("NFC", "č.png"))
    assert isinstance(found, RowProblem)
    assert found.reason == "uri.forbidden"


@pytest.mark.processes
def test_a_key_that_is_composed_otherwise_is_pointed_out(bucket: str) -> None:
    storage.write(f"s3://{bucket}/{NFD}", b"x")
    with pytest.raises(Missing, match="composed otherwise"):
        storage.read(f"s3://{bucket}/{NFC}")


def test_two_folders_match_names_composed_otherwise(tmp_path: Path) -> None:
    for folder, name in (("before", NFD), ("after", NFC)):
        (tmp_path / folder / name).parent.mkdir(parents=True)
        (tmp_path / folder / name).write_bytes(b"x")
    (tmp_path / "r.jsonl").write_text(json.dumps({"image": NFD, "box": [1, 2, 3, 4]}))
    [case] = folder_items(
        FolderPair(before=str(tmp_path / "before"), after=str(tmp_path / "after"), regions=str(tmp_path / "r.jsonl"))
    )
    assert (case.status, len(case.regions)) == ("done", 1)


@pytest.mark.parametrize("image", ["C:\\photos\\a.png", "C:/photos/a.png", "photos\\a.png", "\\\\server\\share\\a.png"])
def test_a_windows_path_gets_a_hint(tmp_path: Path, image: str) -> None:
    item = row(tmp_path, image=image)
    assert isinstance(item, Item)
    with pytest.raises(Missing, match="looks like a Windows path: write '/'"):
        storage.read(item.image)


@pytest.mark.parametrize(
    "name",
    ["Snímek obrazovky\u00a02026-05-15.png", "Screenshot at 1.01.11\u202fAM.png", "👩\u200d👧.png", "م\u200cخ.png"],
)
def test_invisible_but_harmless_characters_are_allowed(tmp_path: Path, name: str) -> None:
    item = row(tmp_path, output=name, item_id=name, category=name, image=name, regions=[{**REGION, "region_id": name}])
    assert isinstance(item, Item)
    assert (item.output, item.item_id, item.regions[0].region_id) == (name, name, name)


@pytest.mark.parametrize(("char", "said"), [("\u202e", "RIGHT-TO-LEFT OVERRIDE"), ("\x07", "U+0007")])
@pytest.mark.parametrize("field", ["output", "item_id", "category"])
def test_what_is_not_harmless_is_named_and_costs_its_row_alone(
    tmp_path: Path, field: str, char: str, said: str
) -> None:
    problem = row(tmp_path, **{field: f"a{char}gnp.exe"})
    assert isinstance(problem, RowProblem)
    assert (problem.reason, problem.fatal) == (f"{field}.invalid", False)
    assert said in problem.message
