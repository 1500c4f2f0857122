"""A run that signs: its files are valid, and the operator's key is nowhere but in its own file."""

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import c2pa
import numpy as np
import pytest

from refine_ops.job.ledger import read_ledger
from tests.support import ROOT
from tests.support.certificates import Identity, camera_signed
from tests.support.made_files import jpeg, picture, png

RUN = """
import json, logging, sys
from flows.steps.batch import run_batch
from refine_ops.config import RefineBatchConfig
if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    run_batch(RefineBatchConfig.model_validate(json.loads(sys.argv[1])))
"""


@pytest.mark.processes
def test_a_run_signs_its_files_and_keeps_the_key_to_itself(
    tmp_path: Path, camera: Identity, operator: Identity
) -> None:
    rgb = picture(np.random.default_rng(5), 128, 96)
    (tmp_path / "signed.jpg").write_bytes(camera_signed(jpeg(rgb, "420"), camera))
    (tmp_path / "plain.png").write_bytes(png(rgb))
    (tmp_path / "torn.jpg").write_bytes(camera_signed(jpeg(rgb, "420"), camera).replace(b"test camera", b"best camera"))
    box = {"box": [30, 20, 54, 43], "prompt": "Refine it"}
    rows = [{"item_id": n.split(".")[0], "image": n, "regions": [box]} for n in ("signed.jpg", "plain.png", "torn.jpg")]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "run"
    config = {
        "manifest": str(tmp_path / "items.jsonl"),
        "out": str(out),
        "error_budget": 0.9,
        "refine": {
            "focus": {"focus_pixels": 4096, "tiles": "none"},
            "model": {"steps": 1},
            "publish": "all",
            "provenance": {"mark": "c2pa"},
        },
    }
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "REFINE_C2PA_CERTIFICATE": str(operator.chain),
        "REFINE_C2PA_KEY": str(operator.key),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(config)], env=environment, capture_output=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:].decode()
    ledger = read_ledger(str(out / "outcomes"))
    assert dict(zip(ledger["item_id"].to_pylist(), ledger["reason"].to_pylist(), strict=True)) == {
        "signed": "",
        "plain": "",
        "torn": "provenance.bad_credential",
    }
    for name, manifests in (("signed.jpg", 2), ("plain.png", 1)):
        data = (out / "current" / name).read_bytes()
        with c2pa.Reader(f"image/{'jpeg' if name.endswith('jpg') else 'png'}", BytesIO(data)) as reader:
            assert reader.get_validation_state() == "Valid"
            assert len(json.loads(reader.json())["manifests"]) == manifests
    assert "| Content Credentials made | 2 |" in (out / "report" / "summary.md").read_text()
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 10
    for held in [done.stdout, done.stderr, *(path.read_bytes() for path in files)]:
        for line in operator.key_lines:
            assert line not in held
        assert str(operator.key).encode() not in held
