"""A start of a catalogue that is done, on a simulated ledger of many starts: the plan against it, and what its end adds
up for the summary; seconds and peak memory, each in a process of its own.

nice -n 19 python -m tests.bench.bench_resume [--items 10000000] [--starts 40] [--changed 0.001]
"""

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.steps.summary import Tally
from refine_ops.job.ledger import OUTCOME_SCHEMA, latest_in_parts, outcomes_table, write_part
from refine_ops.job.planning.known import read_known
from refine_ops.job.planning.plan import PLAN_SCHEMA, PlanReader
from refine_ops.job.planning.remaining import remaining
from refine_ops.records import Alignment, Outcome, RegionOutcome, Verification

CHUNK = 1 << 18
FINGERPRINT = "f" * 32
REGION = RegionOutcome(
    "r1", 4000, (0, 0, 64, 64), (0, 0, 512, 512), 1024, 1024, 900, 16, 9.0, 7, "none", Alignment(True)
)
MADE = Outcome(
    "",
    "0" * 32,
    "done",
    format="JPEG",
    width=3000,
    height=4000,
    regions=(REGION,),
    verification=Verification("p", *[9] * 5, True),
    timings_s={"read": 0.1, "refine": 2.5},
)


def hexadecimal(rng: np.random.Generator, count: int, digits: int) -> pa.Array:
    return pa.array(np.char.decode(np.frombuffer(rng.bytes(count * digits // 2).hex().encode(), f"S{digits}")).tolist())


def make(run: Path, items: int, starts: int, changed: float) -> None:
    """A plan, and a ledger whose first start did nearly all of it, the others a little each, some of it again."""
    rng = np.random.default_rng(0)
    run.mkdir()
    with pq.ParquetWriter(run / "plan.parquet", PLAN_SCHEMA, compression="zstd") as writer:
        for first in range(0, items, CHUNK):
            count = min(CHUNK, items - first)
            numbers = np.arange(first, first + count)
            ids = pc.binary_join_element_wise("sku-", pa.array(numbers).cast(pa.string()), "")
            images = pc.binary_join_element_wise("s3://shop/images/", ids, ".jpg", "")
            requests = hexadecimal(rng, count, 32)
            fixed = {"item_id": ids, "image": images, "output": ids, "request": requests, "row": pa.array(numbers)}
            columns = [fixed[f.name] if f.name in fixed else pa.nulls(count, f.type) for f in PLAN_SCHEMA]
            writer.write_table(pa.table(columns, schema=PLAN_SCHEMA))
            told = outcomes_table([dataclasses.replace(MADE, start=1, run_fingerprint=FINGERPRINT)])
            told = told.take(pa.array(np.zeros(count, np.int64)))
            asked = pc.if_else(pa.array(rng.random(count) < changed), "another", requests)
            given = {
                "item_id": ids,
                "image": images,
                "output": ids,
                "object": images,
                "request": asked,
                "identity": hexadecimal(rng, count, 32),
                "source_sha256": hexadecimal(rng, count, 64),
                "output_sha256": hexadecimal(rng, count, 64),
                "finished_at": pa.array(rng.random(count) + 1.7e9),
            }
            for name, values in given.items():
                told = told.set_column(OUTCOME_SCHEMA.get_field_index(name), OUTCOME_SCHEMA.field(name), values)
            write_part(str(run / "outcomes"), told, "merged")
            for start in range(2, starts + 1):
                again = told.slice((start * 7919) % count, max(1, count // 1000))
                number = OUTCOME_SCHEMA.get_field_index("start")
                again = again.set_column(number, OUTCOME_SCHEMA.field(number), pa.array([start] * len(again)))
                if first == 0:
                    write_part(str(run / "outcomes"), again, "merged")


def resume(run: Path) -> None:
    before, started = peak_gib(), time.perf_counter()
    plan = PlanReader(str(run / "plan.parquet"))
    known = read_known(str(run / "outcomes"), plan)
    read_s = time.perf_counter() - started
    found = remaining(plan, known, recheck=False, retry_dead=False, fingerprint=FINGERPRINT)
    took_s = time.perf_counter() - started
    print(
        f"{len(plan):,} items: {len(found.positions):,} to do, {found.done:,} done; {took_s:.0f} s "
        f"({read_s:.0f} s of it the ledger), peak {peak_gib():.2f} GiB ({before:.2f} before)"
    )


def end(run: Path) -> None:
    before, started = peak_gib(), time.perf_counter()
    planned = PlanReader(str(run / "plan.parquet")).columns(["item_id"])["item_id"].combine_chunks()
    tally = Tally(1)
    for part in latest_in_parts(str(run / "outcomes"), list(Tally.COLUMNS), planned):
        tally.add(part)
    print(
        f"{tally.counts['done']:,} done added up in {time.perf_counter() - started:.0f} s, peak {peak_gib():.2f} GiB "
        f"({before:.2f} before)"
    )


def peak_gib() -> float:
    """Of this program; what getrusage says is inherited from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1048576


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--starts", type=int, default=40)
    parser.add_argument("--changed", type=float, default=0.001)
    parser.add_argument("--run", type=Path, help="measure this one only")
    parser.add_argument("--part", choices=["resume", "end"], help="with --run: which")
    given = parser.parse_args()
    if given.run:
        {"resume": resume, "end": end}[given.part](given.run)
        return
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        make(run, given.items, given.starts, given.changed)
        for part in ("resume", "end"):
            # In a process of its own: what made the run must not count.
            command = [sys.executable, "-m", "tests.bench.bench_resume", "--run", str(run), "--part", part]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
