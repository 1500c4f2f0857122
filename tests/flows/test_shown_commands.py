"""Every command that the README and the chapters show is run in small, or it is said where else it is, or why not.

Run in order in one folder, through the entry point of the command line, on what the front page's own manifest names.
What takes minutes (evaluations, training) is slow: `pytest -m slow tests/flows/test_shown_commands.py`; last run:
2026-11-27, 9032380, beside other work: 5 passed in 190 s.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli.main import main
from refine_ops import adapters
from tests.support import ROOT
from tests.test_documents import DOCUMENTS, shown_commands

pytestmark = pytest.mark.processes

RUN = {
    "image photo.jpg --box 310,220,520,300 --reference logo.png -o refined.jpg --show": {},
    "check manifest.jsonl --sheet marks.png": {},
    "check /data/manifest.parquet --open": {"/data/manifest.parquet": "manifest.jsonl"},
    "run manifest.jsonl --plan-only": {},
    "run manifest.jsonl --out runs/tonight --model refineanything-2511-lightning-8 --allow-hub": {
        "refineanything-2511-lightning-8": "tiny"
    },
    "run manifest.jsonl --out runs/tonight --model flux2-klein-4b --allow-hub": {"flux2-klein-4b": "tiny"},
    "starts RUN": {},
    "export RUN --list": {},
    "export RUN --to URI": {"URI": "exported"},
    "export RUN --to s3://shop/images": {"s3://shop/images": "images"},
    "export runs/tonight --to s3://shop/images": {"s3://shop/images": "images"},
    "verify RUN": {},
    "prune RUN": {},
    "rollback RUN --to 41": {"41": "1"},
    "report RUN [RUN ...]": {"RUN [RUN ...]": "runs/tonight"},
    "report --from REPORT": {"REPORT": "runs/tonight/report"},
    "report RUN --nights 1": {},
    "report RUN --nights 1 --trend TREND": {"TREND": "trend"},
    "report --before DIR --after DIR": {"--before DIR --after DIR": "--before before --after after --out compared"},
    "review apply decisions.json RUN": {},
    "review apply decisions.json RUN [--rejected redo|exclude]": {"[--rejected redo|exclude]": "--rejected exclude"},
    "doctor": {},
    "doctor --model NAME": {"NAME": "tiny"},
    "adapters list --registry adapters": {},
    "adapters list | show VERSION | promote VERSION | rollback --registry s3://lake/adapters": {
        "list | show VERSION | promote VERSION | rollback": "show current",
        "s3://lake/adapters": "adapters",
    },
    "adapters rollback --registry DIR": {"DIR": "adapters"},
    "annotations export label-studio manifest.parquet --images photos/ --out tasks.json": {"parquet": "jsonl"},
    "build-dataset --source synthetic --count 2000 --out sets/synthetic": {
        "--count 2000": "--count 6 --set source.size_px=64"
    },
}
"""What is shown -> what of it is typed otherwise, so that it is small and stays here. RUN is a run folder."""

SLOW = {
    "eval build-cases mini --out cases": {},
    "eval --out results": {"--out results": "--out results --cases mini --limit 2"},
    "eval compare A B": {"A B": "results results"},
    "eval vae-crop --out DIR": {"DIR": "crops"},
    "demo": {},
}
ELSEWHERE = {
    "annotations import coco instances.json --images photos/ --out manifest.parquet": (
        "annotations/test_imported_is_refined.py"
    ),
    "annotations import label-studio export.json --images s3://shop/photos/ --out manifest.jsonl "
    '--prompt "Refine the {label}"': "annotations/test_s3.py",
    "annotations export label-studio manifest.parquet --held runs/tonight --out tasks.json": (
        "annotations/test_imported_is_refined.py"
    ),
    "run manifest.parquet --out DIR --adapter current --registry s3://lake/adapters": "train/test_story.py",
    "run refine-demo/manifest.parquet --out night --adapter current --registry adapters": "train/test_story.py",
    "build-dataset --source synthetic --count 200 --out data --set source.size_px=64": "train/test_story.py",
    "train train.yaml": "train/test_story.py",
    "train train.yaml --out worse --steps 20 --set seed=1": "train/test_story.py",
    "train train.yaml --out broken --steps 20 --set optimizer.learning_rate=0.05": "train/test_story.py",
    "ablate ablate.yaml": "train/test_ablation.py",
    "ablate train.yaml": "train/test_ablation.py",
    "build-dataset --source synthetic --count 100 --out data --set source.size_px=256": "data/test_flow.py",
    "build-dataset CONFIG": "flows/test_ends.py",
    "detect refine-demo/images --like refine-demo/references --only damaged --out found": "detect/test_two_commands.py",
    "run found/manifest.parquet --out night": "detect/test_two_commands.py",
    "detect photos --out found": "detect/regions/test_folder.py",
    "detect photos --like brand --out found": "detect/finding/test_like.py",
    "eval CONFIG": "eval/test_flow.py",
    "eval --out results --set metrics.weights=trunks": "eval/metrics/test_model_metrics.py",
    "report RUN --weights TRUNKS": "report/test_modelled.py",
    "take-over RUN": "job/test_take_over.py",
    "mark photos/": "mark/test_page.py",
    "mark photos/ --references brand/": "mark/test_page.py",
    "mark photos/ --manifest detected.parquet": "mark/test_session.py",
    "run photos/manifest.jsonl": "mark/test_page.py",
    "calibrate --out gate --cases SET --reviews RUN --set refine.model.model=tiny": "judge/test_calibrate.py",
    "calibrate --out gate --photos PHOTOS --set weights=TRUNKS": "judge/test_calibrate.py",
    "calibrate --out gate --photos PHOTOS --set rendered=520 --set per_case=3 --set weights=TRUNKS": (
        "judge/test_calibrate.py"
    ),
}
"""Where that command's flow runs in a test of its own."""

NAMED: tuple[str, ...] = (
    *("run", "detect", "calibrate", "prune", "rollback", "rollback RUN --to", "adapters rollback", "review apply"),
    *("eval build-cases", "eval vae-crop", "build-dataset --source synthetic", "train --set path.to.setting=value"),
    *("eval build-cases mini --out DIR", "eval build-cases mini --out CASES"),
)
"""Parts of a sentence: a command's name, or one that is shown whole elsewhere. That they exist is tested with the
documents, as everything here is."""


ON_A_GPU = {"eval ab.yaml": "an A/B of presets of 20 billion parameters"}
"""What is not run here, and why; its flow is that of `eval --out results`."""


def small(shown: str, otherwise: dict[str, str]) -> str:
    for old, new in otherwise.items():
        assert old in shown
        shown = shown.replace(old, new)
    return re.sub(r"\bRUN\b", "runs/tonight", shown)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    """A folder with what the front page's commands and manifest name."""
    folder = tmp_path_factory.mktemp("shop")
    [manifest] = re.findall(r"^```json\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    (folder / "manifest.jsonl").write_text(json.dumps(json.loads(manifest)) + "\n")
    wide = np.concatenate([photo, photo[:, ::-1]], axis=1)[:, :660]
    for name in ("photos", "brand", "masks", "before", "after"):
        (folder / name).mkdir()
    large = Image.fromarray(np.concatenate([wide, wide[::-1]])[:660])
    for name in ("photo.jpg", "photos/1042.jpg", "before/a.png", "after/a.png"):
        large.save(folder / name)
    for name in ("logo.png", "brand/logo.png"):
        large.crop((300, 200, 530, 320)).resize((460, 240)).save(folder / name)
    mask = Image.new("L", large.size)
    mask.paste(255, (180, 60, 260, 140))
    mask.save(folder / "masks" / "1042.png")
    weights = next((ROOT / "refine_ops/model/tiny/weights").rglob("*.safetensors")).read_bytes()
    for version in (weights[:64], weights[:65]):  # looked at here, and never loaded
        adapters.promote(str(folder / "adapters"), adapters.publish(str(folder / "adapters"), version).version, "test")
    return folder


@pytest.fixture(autouse=True)
def typed_in(shop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    environment = dict(os.environ)
    monkeypatch.chdir(shop)
    yield
    os.environ.clear()
    os.environ.update(environment)


def typed(line: str, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if line.startswith("review apply"):
        _decide(shop)
    monkeypatch.setattr(sys, "argv", ["refine-ops", *shlex.split(line)])
    try:
        main()
    except SystemExit as end:
        assert not end.code, line  # noqa: PT017 -- how a command line ends


def _decide(shop: Path) -> None:
    """What a person exports from the report."""
    from refine_ops.job.ledger import read_ledger
    from refine_ops.job.run_folder import reopen_run

    run = str(shop / "runs" / "tonight")
    fingerprint = read_ledger(f"{run}/outcomes", ["fingerprint"])["fingerprint"][-1].as_py()
    decided = {"run": reopen_run(run)[0].uri, "item_id": "sku-1042", "fingerprint": fingerprint}
    decided |= {"decision": "reject", "note": "", "at": "2026-11-27"}
    body = {"schema": "refine-ops/decisions/1", "report": "r", "decisions": [decided]}
    (shop / "decisions.json").write_text(json.dumps(body))


@pytest.mark.parametrize("shown", RUN)
def test_a_command_that_is_shown_runs(shown: str, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(small(shown, RUN[shown]), shop, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shown", SLOW)
def test_a_command_that_takes_minutes_runs(shown: str, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(small(shown, SLOW[shown]), shop, monkeypatch)


def test_every_command_that_is_shown_is_accounted_for() -> None:
    shown = {command for document in DOCUMENTS for command in shown_commands(document.read_text())}
    assert shown == {*RUN, *SLOW, *ELSEWHERE, *ON_A_GPU, *NAMED}
    assert all((ROOT / "tests" / path).is_file() for path in ELSEWHERE.values())
