"""The manifest's author is not trusted: what a row may name, and what it may not."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refine_ops import storage
from refine_ops.config import AccessSettings, RefineSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.job.planning.manifest import read_items
from refine_ops.job.planning.plan import make_plan
from refine_ops.job.planning.rows import RowProblem
from refine_ops.job.run_folder import fingerprint_parts, open_run
from refine_ops.records import Item

REGION = {"box": [0, 0, 9, 9], "prompt": "Refine it"}


def row(folder: Path, access: AccessSettings | None = None, **fields: object) -> Item | RowProblem:
    manifest = folder / "m.jsonl"
    manifest.write_text(json.dumps({"item_id": "a", "image": "a.png", "regions": [REGION], **fields}))
    return next(read_items(str(manifest), access))


@pytest.mark.parametrize(
    "output",
    ["../a.png", "x/../../a.png", "/etc/a.png", "..\\..\\a.png", "s3://other/a.png", "file:///a.png", "."],
)
def test_an_output_outside_the_run_refuses_the_whole_manifest(tmp_path: Path, output: str) -> None:
    problem = row(tmp_path, output=output)
    assert isinstance(problem, RowProblem)
    assert problem.fatal
    with pytest.raises(JobError, match="nothing was run"):
        make_plan(str(tmp_path / "m.jsonl"), str(tmp_path / "run"), access=AccessSettings())
    assert not (tmp_path / "run").exists()


@given(st.text(min_size=1, max_size=40))
def test_whatever_the_output_is_called_it_stays_inside(tmp_path_factory: pytest.TempPathFactory, output: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    parsed = row(folder, output=output)
    if isinstance(parsed, Item):
        outputs = os.path.join(folder, "run", "outputs")
        assert storage.inside(storage.join(outputs, parsed.output), outputs)


def test_a_symbolic_link_in_outputs_is_not_followed(tmp_path: Path) -> None:
    run = open_run(str(tmp_path / "run"), fingerprint_parts(RefineSettings(), {}), {})
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "run" / "outputs").mkdir()
    (tmp_path / "run" / "outputs" / "link").symlink_to(outside)
    (tmp_path / "run" / "outputs" / "file.png").symlink_to(outside / "victim.png")
    for name in ("link/a.png", "file.png"):
        with pytest.raises(ItemError, match="symbolic link"):
            run.uri_of(f"outputs/{name}")


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "gs", "data", "smb", "FILE+x"])
def test_every_scheme_but_file_and_s3_is_refused(tmp_path: Path, scheme: str) -> None:
    problem = row(tmp_path, image=f"{scheme}://host/a.png")
    assert isinstance(problem, RowProblem)
    assert (problem.reason, problem.fatal) == ("uri.scheme", True)


def test_files_outside_the_roots_are_refused_however_they_are_spelt(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    allowed.mkdir()
    secret.mkdir()
    (secret / "s.png").write_bytes(b"x")
    (allowed / "link.png").symlink_to(secret / "s.png")
    access = AccessSettings(roots=(str(allowed),))
    assert isinstance(row(allowed, access, image="a.png"), Item)
    spellings = [
        *("/etc/passwd", "file:///etc/passwd", "file:///%65tc/passwd", "../secret/s.png"),
        *(str(secret / "s.png"), "link.png", f"{allowed}/../secret/s.png", f"{allowed}-too/s.png"),
    ]
    for image in spellings:
        problem = row(allowed, access, image=image)
        assert isinstance(problem, RowProblem), image
        assert problem.reason == "uri.forbidden", image
    for field in ("mask", "reference"):
        region = {"prompt": "Refine it", field: "/etc/passwd", **({} if field == "mask" else {"box": [0, 0, 9, 9]})}
        problem = row(allowed, access, regions=[region])
        assert isinstance(problem, RowProblem)
        assert problem.reason == "uri.forbidden"


def test_buckets_are_allow_listed(tmp_path: Path) -> None:
    access = AccessSettings(buckets=("ours",))
    assert isinstance(row(tmp_path, access, image="s3://ours/a.png"), Item)
    for image in ("s3://theirs/a.png", "s3://ours.evil/a.png", "s3://Ours/a.png"):
        problem = row(tmp_path, access, image=image)
        assert isinstance(problem, RowProblem)
        assert problem.reason == "uri.forbidden"


@pytest.mark.timeout(20)
def test_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (str(tmp_path / "pipe"), "/dev/zero", str(tmp_path)):
        with pytest.raises(ItemError) as caught:
            storage.read(name, max_bytes=1 << 30)
        assert caught.value.reason == "file.not_a_file"


@pytest.mark.parametrize("char", ["\n", "\r", "\x1b[2J", "\u2028", "\x00", "\x85"])
def test_no_field_that_is_logged_can_forge_a_line(tmp_path: Path, char: str) -> None:
    forged = f"a{char}2026-01-01 CRITICAL all is lost.png"
    rows = [
        *(row(tmp_path, item_id=forged), row(tmp_path, image=forged), row(tmp_path, category=forged)),
        *(row(tmp_path, output=forged), row(tmp_path, regions=[{**REGION, "region_id": forged}])),
        row(tmp_path, regions=[{**REGION, "reference": forged}]),
    ]
    for problem in rows:
        assert isinstance(problem, RowProblem)
        assert char not in problem.message, "nor may the refusal repeat it"
        assert char not in problem.item_id


def test_the_source_is_never_the_output(tmp_path: Path) -> None:
    """Outputs lie below the run's `outputs/`, so only an image that lies there could be replaced: it is refused."""
    run = open_run(str(tmp_path / "run"), fingerprint_parts(RefineSettings(), {}), {})
    (tmp_path / "link.png").symlink_to(tmp_path / "run" / "outputs" / "a.png")
    for image in (run.uri_of("outputs/a.png"), str(tmp_path / "link.png")):
        with pytest.raises(ItemError, match="another --out"):
            run.refuse_own_output(image)
    run.refuse_own_output(str(tmp_path / "a.png"))


HALF = "\ud800"
HUGE = 10**400
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "fields",
    [
        *({"image": f"{HALF}.png"}, {"image": "s3://[bucket/a.png"}, {"image": "s3://buc\u2100ket/a.png"}),
        *({"image": "file:///a%00.png"}, {"image": "file:///a%0a.png"}, {"image": "file://elsewhere/a.png"}),
        *({"image": "s3://bucket/"}, {"image": "s3://bucket"}, {"image": "s3://bucket/folder/"}),
        *({"category": HALF}, {"regions": [{**REGION, "prompt": HALF}]}, {"regions": [{**REGION, "seed": "9" * 5000}]}),
        *({"regions": [{**REGION, "box": box}]} for box in ([0, 0, HUGE, 9], DEEP, {"x": 1}, 7)),
        *(
            {"regions": [{"prompt": "p", "scribble": scribble}]}
            for scribble in (
                *(DEEP, 7, {"strokes": 7, "width": 3}, {"strokes": [7], "width": 3}, {"strokes": [None], "width": 3}),
                *({"strokes": [[[HUGE, 0]]], "width": 3}, {"strokes": [[[0, 0]]], "width": HUGE}),
            )
        ),
    ],
)
def test_a_field_that_json_allows_and_nothing_else_does_is_a_problem_of_its_row(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    problem = row(tmp_path, **fields)
    assert isinstance(problem, RowProblem)
    assert len(problem.message) <= 1000
    problem.message.encode()


def test_a_line_nested_too_deeply_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(DEEP)
    with pytest.raises(JobError, match="line 1: not JSON"):
        list(read_items(str(tmp_path / "m.jsonl")))
