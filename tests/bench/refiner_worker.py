"""End to end: JPEG files through the real launcher, rank and run folder, on the bench's model.

Run as a module by the launcher, this file is also the rank itself, with the random model where asked for.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
from refiner_setup import Setup, make_setup

from refine_ops.config import ModelSettings, RefineBatchConfig, RefineSettings, WorkerSettings
from refine_ops.job.launch import Node
from refine_ops.job.ledger import read_ledger
from refine_ops.job.planning.known import read_known
from refine_ops.job.planning.plan import PlanReader, make_plan
from refine_ops.job.planning.remaining import remaining
from refine_ops.job.rank.worker import Device
from refine_ops.job.rank.worker import main as run_rank
from refine_ops.job.run_folder import open_run
from refine_ops.model.load import Networks
from refine_ops.model.refiner import StagedRefiner, build_refiner

_HERE = str(Path(__file__).parent)


def measure_worker(setup: Setup, items: int) -> dict[str, Any]:
    """Refine `items` JPEG files of 2 MP, one box each; the host's work should hide behind the model."""
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        manifest = _write_images(Path(root), items)
        config = RefineBatchConfig(
            manifest=str(manifest),
            out=f"{root}/run",
            refine=RefineSettings(
                publish="all",  # random weights restore nothing
                model=ModelSettings(model="tiny", steps=setup.preset.steps, device=setup.device.type),
            ),
            worker=WorkerSettings(processes=1),
        )
        folder = open_run(config.out, {}, {})
        make_plan(config.manifest, folder.uri, access=config.access)
        todo = remaining(
            PlanReader(folder.plan), read_known(folder.outcomes, PlanReader(folder.plan)),
            recheck=False, retry_dead=False,
        )  # fmt: skip
        # A rank runs with PYTHONSAFEPATH: this module's folder must be named, and what finds the package kept.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_HERE, os.environ.get("PYTHONPATH")]))
        os.environ["BENCH_SETUP"] = json.dumps([setup.name, setup.random, setup.preset.steps])
        verdict = Node(folder, config, 1, module="refiner_worker").run(todo)
        ledger = read_ledger(folder.outcomes, ["status", "finished_at"])
        done = int(pc.sum(pc.equal(ledger["status"], "done")).as_py() or 0)
        finished = np.sort(ledger["finished_at"].to_numpy())
    if done != items:
        raise SystemExit(f"{items - done} of {items} items failed")
    span = float(finished[-1] - finished[0]) / (items - 1)
    model = verdict.counts.model_s / items
    print(
        f"worker: {span:.3f} s per item, of which the model {model:.3f} s: {span / model:.3f}x; load "
        f"{verdict.counts.load_s:.1f} s, first image after {verdict.counts.first_image_s:.1f} s"
    )
    return {"s_per_item": span, "model_s_per_item": model, "ratio_to_model": span / model}


def _write_images(root: Path, count: int) -> Path:
    lines = []
    for index in range(count):
        coarse = np.random.default_rng(index).integers(0, 256, (24, 36, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (1728, 1152), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / f"{index}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        region = {"box": [700, 400, 1000, 700], "prompt": "Refine the logo."}
        lines.append(json.dumps({"item_id": f"item-{index}", "image": f"{index}.jpg", "regions": [region]}))
    manifest = root / "manifest.jsonl"
    manifest.write_text("\n".join(lines))
    return manifest


def _load(settings: ModelSettings, device: Device) -> StagedRefiner:
    name, random, steps = json.loads(os.environ["BENCH_SETUP"])
    setup = make_setup(name, random, steps)
    return build_refiner(Networks.of(setup.pipeline()), setup.preset, settings, device(), {})


if __name__ == "__main__":
    run_rank(import_refiner=lambda: _load)
