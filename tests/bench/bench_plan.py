"""A large Parquet manifest becomes a plan: seconds and peak memory, against reading the same file as plain columns.

python -m tests.bench.bench_plan [--rows 1000000]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops.config import AccessSettings
from refine_ops.job.planning.manifest import SCHEMA
from refine_ops.job.planning.plan import make_plan

CHUNK = 100_000


def write_manifest(path: Path, rows: int) -> None:
    """One box and a reference per row."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, rows, CHUNK):
            numbers = range(start, min(start + CHUNK, rows))
            regions = [
                [{"box": [10, 10, 200 + n % 50, 120], "prompt": "Refine the logo", "reference": "refs/logo.png"}]
                for n in numbers
            ]
            columns = {
                "item_id": [f"sku-{n:07d}" for n in numbers],
                "image": [f"images/sku-{n:07d}.jpg" for n in numbers],
                "output": pa.nulls(len(numbers), pa.string()),
                "category": pa.nulls(len(numbers), pa.string()),
                "regions": pa.array(regions, SCHEMA.field("regions").type),
            }
            writer.write_table(pa.table(columns, schema=SCHEMA))


def plan(manifest: Path) -> None:
    started = time.perf_counter()
    pq.read_table(manifest)
    columns_s = time.perf_counter() - started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    made = make_plan(str(manifest), str(manifest.parent / "run"), access=AccessSettings())
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{made.items:,} items, {made.shards} shards: {seconds:.1f} s ({seconds / columns_s:.0f} x reading columns), "
        f"peak {peak / 1048576:.2f} GiB ({before / 1048576:.2f} before)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--manifest", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.manifest is not None:
        plan(options.manifest)
        return
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "manifest.parquet"
        write_manifest(path, options.rows)
        # A process of its own, so that the peak is the plan's.
        subprocess.run([sys.executable, "-m", "tests.bench.bench_plan", "--manifest", str(path)], check=True)


if __name__ == "__main__":
    main()
