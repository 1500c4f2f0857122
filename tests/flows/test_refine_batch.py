"""`refine-ops` as its user types it: real flow, real Prefect API, real model, bad input of every kind."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from refine_ops.job.ledger import read_ledger
from tests.support.typed import typed

pytestmark = pytest.mark.processes

QUICK = [
    *("--publish", "all", "--set", "refine.model.steps=1"),
    *("--set", "refine.focus.focus_pixels=4096", "--set", "refine.focus.tiles=none"),
]


SCRIPT = str(Path(sys.executable).parent / "refine-ops")


def cli(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=280, env=env, check=False)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def signed(data: bytes) -> bytes:
    """With a chunk of Content Credentials after the header."""
    chunk = b"caBX" + b"a manifest store"
    return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    """Images good and bad, and a manifest that names them all."""
    folder = tmp_path_factory.mktemp("site")
    small = np.ascontiguousarray(photo[40:200, 150:330])
    good = signed(png(small))
    files = {
        "good.png": good,
        "empty.png": b"",
        "truncated.png": good[: len(good) // 2],
        "text.png": b"<html>not an image</html>",
        "mask-small.png": png(np.full((8, 8), 255, np.uint8)),
        "mask-empty.png": png(np.zeros(small.shape[:2], np.uint8)),
        "mask.png": png(np.pad(np.full((20, 20), 255, np.uint8), ((40, 100), (40, 120)))),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    frames = [Image.fromarray(small), Image.fromarray(small[::-1])]
    frames[0].save(folder / "frames.png", save_all=True, append_images=frames[1:])
    box = {"box": [40, 40, 90, 100], "prompt": "Refine the face"}
    dot = {"strokes": [[[50, 60]]], "width": 1}
    rows = [
        {"item_id": "good", "image": "good.png", "regions": [box]},
        {"item_id": "masked", "image": "good.png", "regions": [{"mask": "mask.png", "prompt": "Refine it"}]},
        {"item_id": "scribbled", "image": "good.png", "regions": [{"scribble": dot, "prompt": "Refine it"}]},
        {"item_id": "whole", "image": "good.png", "regions": [{"box": [0, 0, 180, 160], "prompt": "Refine it"}]},
        {"item_id": "gone", "image": "gone.png", "regions": [box]},
        {"item_id": "empty", "image": "empty.png", "regions": [box]},
        {"item_id": "truncated", "image": "truncated.png", "regions": [box]},
        {"item_id": "text", "image": "text.png", "regions": [box]},
        {"item_id": "frames", "image": "frames.png", "regions": [box]},
        {"item_id": "mask-small", "image": "good.png", "regions": [{"mask": "mask-small.png", "prompt": "x"}]},
        {"item_id": "mask-empty", "image": "good.png", "regions": [{"mask": "mask-empty.png", "prompt": "x"}]},
        {"item_id": "no-reference", "image": "good.png", "regions": [{**box, "reference": "gone.png"}]},
        {"item_id": "outside", "image": "good.png", "regions": [{"box": [0, 0, 999, 10], "prompt": "x"}]},
        {"item_id": "inverted", "image": "good.png", "regions": [{"box": [9, 9, 3, 3], "prompt": "x"}]},
        {"item_id": "no-prompt", "image": "good.png", "regions": [{**box, "prompt": ""}]},
        {"item_id": "no-region", "image": "good.png", "regions": []},
    ]  # fmt: skip
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


EXPECTED = {
    "good": "",
    "masked": "",
    "scribbled": "",
    "whole": "",
    "gone": "file.missing",
    "empty": "image.empty",
    "truncated": "image.truncated",
    "text": "image.not_an_image",
    "frames": "image.multi_frame",
    "mask-small": "mask.size",
    "mask-empty": "mask.empty",
    "no-reference": "file.missing",
    "outside": "box.outside",
    "inverted": "box.inverted",
    "no-prompt": "prompt.empty",
    "no-region": "regions.none",
}


def test_check_prints_every_bad_row_and_exits_1(site: Path, home: Path) -> None:
    rows_only = typed("check", str(site / "manifest.jsonl"))
    assert rows_only.returncode == 1
    assert {line.split("\t")[2] for line in rows_only.stdout.splitlines()} == {
        *("box.inverted", "prompt.empty", "regions.none")
    }
    opened = cli("check", str(site / "manifest.jsonl"), "--open", home=home)
    assert opened.returncode == 1
    found = {line.split("\t")[1].strip("'"): line.split("\t")[2] for line in opened.stdout.splitlines()}
    assert found == {k: v for k, v in EXPECTED.items() if v}


def test_a_run_refines_what_it_can_records_what_it_cannot_and_resumes(site: Path, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["run", str(site / "manifest.jsonl"), "--out", str(out), "--error-budget", "0.9", *QUICK]
    first = cli(*arguments, home=home)
    assert first.returncode == 0, first.stderr
    assert "'tiny', the small bundled model" in first.stderr
    ledger = read_ledger(str(out / "outcomes"))
    assert dict(zip(ledger["item_id"].to_pylist(), ledger["reason"].to_pylist(), strict=True)) == EXPECTED
    dead = pq.read_table(out / "dead_letter.parquet").to_pylist()
    assert {d["item_id"] for d in dead} == {k for k, v in EXPECTED.items() if v}
    source = np.asarray(Image.open(site / "good.png"))
    for name, outside in (("good", np.s_[:, 110:]), ("masked", np.s_[90:]), ("scribbled", np.s_[90:])):
        result = np.asarray(Image.open(out / "current" / f"{name}.png"))
        assert np.array_equal(result[outside], source[outside])
        assert not np.array_equal(result, source)
    assert (out / "report" / "report.html").exists()
    assert (out / "report" / "contact_sheet.png").exists()

    assert first.stderr.count("4 sources had Content Credentials") == 1
    summary = (out / "report" / "summary.md").read_text()
    assert "| Content Credentials removed, as they sign the source's pixels | 4 |" in summary
    assert b"manifest store" not in (out / "current" / "good.png").read_bytes()
    report = json.loads((out / "report" / "report.json").read_bytes())
    assert (report["runs"][0]["done"], report["runs"][0]["dead"]) == (4, 12)
    assert "caBX" not in json.dumps(report), "credentials that had to go are no lost metadata"
    reported_at = (out / "report" / "report.json").stat().st_mtime_ns

    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (out / "current").iterdir()}
    again = cli(*arguments, "--error-budget", "0.1", home=home)
    assert again.returncode == 0, "old dead letters do not fail a night"
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (out / "current").iterdir()} == before
    assert (out / "report" / "report.json").stat().st_mtime_ns == reported_at, "nothing has changed"

    other = typed(*arguments, "--set", "refine.paste.blur_px=13")
    assert other.returncode == 2
    assert "settings.paste.blur_px: the run has '11', now '13'" in other.stderr

    good = [r for r in (site / "manifest.jsonl").read_text().splitlines() if not EXPECTED[json.loads(r)["item_id"]]]
    (site / "mended.jsonl").write_text("\n".join(good))
    mended = cli("run", str(site / "mended.jsonl"), "--out", str(out), *QUICK, home=home)
    assert mended.returncode == 0, mended.stderr
    assert pq.read_table(out / "dead_letter.parquet").num_rows == 0
    report = json.loads((out / "report" / "report.json").read_bytes())
    assert (report["runs"][0]["done"], report["runs"][0]["dead"]) == (4, 0), "dead rows that are gone do not count"


def test_what_cannot_be_run_is_one_message_and_exit_2(site: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    cases = {
        "no such file": ["run", str(tmp_path / "none.parquet"), "--out", str(tmp_path / "a")],
        "expected a name ending": ["run", str(tmp_path / "file"), "--out", str(tmp_path / "a")],
        "is not a preset": [
            "run",
            str(site / "manifest.jsonl"),
            "--model",
            "no-such-model",
            "--out",
            str(tmp_path / "a"),
        ],
        "cannot write": ["run", str(site / "manifest.jsonl"), "--out", str(tmp_path / "file" / "run")],
        "no such setting, did you mean 'paste'": ["run", str(site / "manifest.jsonl"), "--set", "refine.pastel=1"],
        "refine is set to 3": ["run", str(site / "manifest.jsonl"), "--set", "refine=3", "--model", "tiny"],
    }
    for message, arguments in cases.items():
        result = typed(*arguments)
        assert result.returncode == 2, (message, result.stdout, result.stderr)
        assert message in result.stderr.lower(), result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "a").exists(), "nothing that the corrected command would have to match"


def test_plan_only_counts_and_estimates_and_writes_nothing(site: Path, tmp_path: Path) -> None:
    result = typed("run", str(site / "manifest.jsonl"), "--plan-only", "--out", str(tmp_path / "run"))
    assert result.returncode == 0
    assert "13 images, 13 regions" in result.stdout
    assert "refineanything-2511-lightning-8" in result.stdout
    assert not (tmp_path / "run").exists()


def test_ctrl_c_ends_everything_of_the_command_with_one_message(site: Path, home: Path, tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole process group: to Prefect's temporary server too."""
    row = {"image": str(site / "good.png"), "regions": [{"box": [40, 40, 90, 100], "prompt": "Refine the face"}]}
    manifest = tmp_path / "many.jsonl"
    manifest.write_text("\n".join(json.dumps({"item_id": str(i), **row}) for i in range(500)))
    command = [SCRIPT, "run", str(manifest), "--out", str(tmp_path / "run"), *QUICK]
    env = {**os.environ, "PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        env=env,
        text=True,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    until = time.monotonic() + 200
    while not list((tmp_path / "run").glob("outputs/*/*.png")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "refine-ops: stopped; what is done is recorded, run the same command again to go on"
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
