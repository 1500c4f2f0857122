"""A run without Prefect: make the folder and the plan, run a node with the trivial refiner. Also a script to be killed.

python -m tests.support.node MANIFEST OUT PROCESSES        # with REFINE_TEST_JUDGED in the environment: by fixed rules
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from refine_ops.config import AlignSettings, ModelSettings, RefineBatchConfig, RefineSettings, WorkerSettings
from refine_ops.job import published
from refine_ops.job.launch import Node, NodeVerdict
from refine_ops.job.ledger import outcomes_table, read_ledger, write_part
from refine_ops.job.planning.known import read_known
from refine_ops.job.planning.plan import PlanReader, make_plan, problem_outcomes
from refine_ops.job.planning.remaining import remaining
from refine_ops.job.run_folder import RunFolder, fingerprint_parts, open_run
from refine_ops.job.starts import open_start
from refine_ops.report.review import read_review

FIXED_RULES = RefineSettings(
    model=ModelSettings(model="of-which-nobody-has-a-gate"), align=AlignSettings(geometry=False, tone=False)
)
FAST = WorkerSettings(flush_items=8, flush_s=0.5, read_threads=2, write_threads=2, grace_s=5.0)


def run_node(config: RefineBatchConfig, processes: int = 1, *, judged: bool = False) -> NodeVerdict:
    """What the trivial refiner makes is no better than its source: unless a test is about judging, nobody judges."""
    if not judged:
        config = config.model_copy(update={"refine": config.refine.model_copy(update={"publish": "all"})})
    folder = open_run(config.out, fingerprint_parts(config.refine, {}), {})
    start = open_start(folder.uri, {})
    try:
        return _refine(config, dataclasses.replace(folder, start=start.number), processes)
    finally:
        start.close("done")


def _refine(config: RefineBatchConfig, folder: RunFolder, processes: int) -> NodeVerdict:
    review = read_review(folder.uri)
    plan = make_plan(config.manifest, folder.uri, access=config.access, limit=config.limit, review=review)
    dead = problem_outcomes(plan.problems, read_ledger(folder.outcomes, ["request"]), folder.start)
    if dead:
        write_part(folder.outcomes, outcomes_table(dead), "plan")
    ledger = read_known(folder.outcomes, PlanReader(folder.plan))
    todo = remaining(PlanReader(folder.plan), ledger, recheck=config.recheck, retry_dead=config.retry_dead)
    verdict = Node(folder, config, processes, module="tests.support.trivial_worker").run(todo)
    ledger = read_ledger(folder.outcomes, list(published.LEDGER_COLUMNS))
    planned = PlanReader(folder.plan).columns(["item_id"])["item_id"].combine_chunks()
    published.commit(folder.uri, folder.start, published.compose(ledger, planned))
    return verdict


def make_items(folder: Path, count: int, prompts: dict[int, str] | None = None) -> Path:
    """`count` small real-looking PNGs with one region each, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        pixels = rng.integers(0, 255, (48 + i % 3, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04}.png")
        region = {"box": [8, 8, 20 + i % 9, 30], "prompt": (prompts or {}).get(i, "Refine it")}
        rows.append({"item_id": f"item-{i:04}", "image": f"{i:04}.png", "regions": [region]})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    return manifest


def outputs_of(out: Path) -> dict[str, bytes]:
    """What was written, by plain name; of several starts the latest."""
    files = (p for p in sorted((out / "outputs").rglob("*")) if p.is_file() and not p.name.startswith(".tmp-"))
    return {
        p.relative_to(out / "outputs" / p.relative_to(out / "outputs").parts[0]).as_posix(): p.read_bytes()
        for p in files
    }


if __name__ == "__main__":
    manifest, out, processes = sys.argv[1:]
    config = RefineBatchConfig(manifest=manifest, out=out, worker=FAST)
    if judged := "REFINE_TEST_JUDGED" in os.environ:
        config = config.model_copy(update={"refine": FIXED_RULES})
    verdict = run_node(config, int(processes), judged=judged)
    print(json.dumps(dataclasses.asdict(verdict)))
