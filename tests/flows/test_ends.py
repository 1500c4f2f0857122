"""How commands end on what people really give them: one message, the right exit code, never a traceback."""

import html
import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from refine_ops.errors import JobError
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.run import train
from tests.support.typed import typed

from .test_refine_batch import QUICK, cli, png

pytestmark = pytest.mark.processes

A = {"item_id": "a", "image": "photo.png", "box": [50, 50, 90, 90], "prompt": "Refine it"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture
def site(tmp_path: Path, photo: np.ndarray) -> Path:
    (tmp_path / "photo.png").write_bytes(png(np.ascontiguousarray(photo[40:200, 150:330])))
    return tmp_path


def said(result: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in result.stderr + result.stdout, result.stderr
    return result.stderr


@pytest.mark.parametrize("command", ["run", "check", "plan-only"])
def test_an_empty_manifest_is_refused_unless_it_may_be_empty(site: Path, command: str) -> None:
    (site / "m.csv").write_text("item_id,image,box,prompt\n,,,\n")
    arguments = {
        "run": ["run", str(site / "m.csv"), "--out", str(site / "run")],
        "check": ["check", str(site / "m.csv")],
        "plan-only": ["run", str(site / "m.csv"), "--plan-only"],
    }[command]
    refused = typed(*arguments)
    assert refused.returncode == 2, refused.stdout
    assert "no rows; set allow_empty=true" in said(refused)
    assert not (site / "run").exists()
    allowed = typed(*arguments, "--set", "allow_empty=true")
    assert allowed.returncode == 0, said(allowed)


def test_a_manifest_of_many_habits_is_run_and_its_faults_are_counted_by_the_editor_s_lines(
    site: Path, home: Path
) -> None:
    text = "\ufeffitem_id;image;box;prompt;seed\na;photo.png;50,50,90,90;Refine it;7.0\n;;;;\nb;photo.png;1,2,3;x;\n"
    (site / "m.csv").write_text(text)
    checked = typed("check", str(site / "m.csv"))
    assert checked.returncode == 1
    assert checked.stdout.startswith("row 4\t'b'\tbox.invalid\t")
    assert "rows are lines of the file, from 1" in said(checked)
    ran = cli("run", str(site / "m.csv"), "--out", str(site / "run"), "--error-budget", "0.9", *QUICK, home=home)
    assert ran.returncode == 0, said(ran)
    assert [p.name for p in (site / "run" / "current").iterdir()] == ["a.png"]


def test_a_polars_category_is_planned(site: Path) -> None:
    ids = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.uint32()), pa.array(["a", "b"]))
    table = pa.table({"item_id": ids, "image": ["photo.png"] * 2, "box": [[5, 5, 9, 9]] * 2, "prompt": ["x"] * 2})
    pq.write_table(table, site / "m.parquet")
    result = typed("check", str(site / "m.parquet"), "--open")
    assert result.returncode == 0, said(result)
    assert "2 items planned" in result.stderr


def test_a_training_set_of_rejects_alone_says_why_each_time(site: Path, home: Path) -> None:
    (site / "m.csv").write_text('image,box\nphoto.png,"50,40,120,110"\n')
    (site / "c.json").write_text(
        json.dumps({"out": str(site / "set"), "source": {"kind": "manifest", "manifest": str(site / "m.csv")}})
    )
    for _ in range(2):
        result = cli("build-dataset", str(site / "c.json"), home=home)
        assert result.returncode == 2, result.stdout
        assert "0 samples in" in said(result)
        assert "1 ground / ground.no_description" in result.stderr
    wanted = {"model": {"model": "tiny"}, "dataset": str(site / "set"), "out": str(site / "train")}
    with pytest.raises(JobError, match="holds no samples"):
        train(TrainLoraConfig.model_validate(wanted))


def test_an_apostrophe_is_an_apostrophe_in_the_summary(site: Path, home: Path) -> None:
    rows = [A, {**A, "item_id": "men's <b>shoe</b> & co", "output": "b.png", "seed": -1}]
    (site / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = cli("run", str(site / "m.jsonl"), "--out", str(site / "run"), "--error-budget", "1", *QUICK, home=home)
    assert result.returncode == 0, said(result)
    summary = (site / "run" / "report" / "summary.md").read_text()
    assert "<b>" not in summary
    assert "men's <b>shoe</b> & co" in html.unescape(summary)
