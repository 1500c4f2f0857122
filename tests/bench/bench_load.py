"""Load: many tiny items through the real launcher and worker with a trivial refiner; memory, rate and resume.

python -m tests.bench.bench_load --items 200000 --out /tmp/load

The run is stopped with SIGINT at the middle and started again; a third start finds nothing to do. Prints one JSON
object: items per second and resident memory of the rank by fifths of each run, seconds to the first outcome after the
restart, and seconds of the start that has nothing to do.

Last full run: 2026-11-23, 257212c, 200000 items, two cores shared with other work (load 8 to 15), 9.7 CPU minutes:
224 to 271 items/s by fifths before the stop and 295 to 340 after it, 684 to 688 MiB throughout, first output 41.6 s
after the restart, 32.3 s with nothing to do, 100276 + 99724 outputs.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from refine_ops.config import RefineBatchConfig
from refine_ops.job.planning.manifest import SCHEMA
from tests.support.node import run_node
from tests.support.servers.site import tree

_DISTINCT = 512


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryReading:
    """One look at a run: seconds since its start, outputs so far, resident MiB of the largest rank."""

    at_s: float
    outputs: int
    rss_mib: float


def make_load(folder: Path, items: int) -> Path:
    """`items` rows over 512 distinct 48x56 PNGs, as a nested Parquet manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(min(_DISTINCT, items)):
        Image.fromarray(rng.integers(0, 255, (48, 56, 3), dtype=np.uint8)).save(folder / f"{i:03}.png")
    manifest = folder / "manifest.parquet"
    region = {"region_id": "0", "prompt": "Refine it", "box": [8, 8, 24, 30]}
    with pq.ParquetWriter(manifest, SCHEMA) as writer:
        for start in range(0, items, 8192):
            rows = [
                {
                    "item_id": f"item-{i:07}",
                    "image": f"{i % _DISTINCT:03}.png",
                    "output": f"{i // 1000:04}/{i:07}.png",
                    "regions": [region],
                }
                for i in range(start, min(start + 8192, items))
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    return manifest


class Watched:
    """A node in a process of its own, sampled every second."""

    def __init__(self, manifest: Path, out: Path, log: Path) -> None:
        command = [sys.executable, "-m", "tests.bench.bench_load", "--node", str(manifest), "--out", str(out)]
        env = {**os.environ, "REFINE_TEST_PUBLISHED": str(log), "OMP_NUM_THREADS": "1"}
        log.unlink(missing_ok=True)
        self._log, self._outputs, self._offset = log, 0, 0
        self.samples: list[MemoryReading] = []
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while self.process.poll() is None:
            self.samples.append(
                MemoryReading(time.monotonic() - self.started, self.outputs(), _largest_rank(self.process.pid))
            )
            time.sleep(1.0)

    def outputs(self) -> int:
        if self._log.exists():
            with self._log.open("rb") as f:
                f.seek(self._offset)
                data = f.read()
            self._outputs += data.count(b"\n")
            self._offset += len(data)
        return self._outputs

    def finish(self, timeout_s: float = 7200) -> float:
        """Wall-clock seconds of the whole run."""
        self.process.communicate(timeout=timeout_s)
        self._thread.join()
        return time.monotonic() - self.started

    def stop_at(self, outputs: int) -> None:
        while not self.samples or self.samples[-1].outputs < outputs:
            assert self.process.poll() is None, "the run ended early"
            time.sleep(0.2)
        self.process.send_signal(signal.SIGINT)

    def fifths(self) -> list[dict[str, float]]:
        """Items per second and largest resident memory, by fifths of the time in which items were finished."""
        busy = [s for s in self.samples if s.outputs]
        if len(busy) < 10:
            return []
        parts = []
        for chunk in np.array_split(np.arange(len(busy)), 5):
            first, last = busy[chunk[0]], busy[chunk[-1]]
            rate = (last.outputs - first.outputs) / max(1e-9, last.at_s - first.at_s)
            parts.append({"items_per_s": round(rate, 1), "rss_mib": round(max(busy[i].rss_mib for i in chunk), 1)})
        return parts

    def first_output_s(self) -> float:
        return next((s.at_s for s in self.samples if s.outputs), float("nan"))


def _largest_rank(launcher: int) -> float:
    """MiB resident in the largest rank below the launcher."""
    largest = 0.0
    for pid in tree(launcher)[1:]:
        try:
            if b"--scratch" in Path(f"/proc/{pid}/cmdline").read_bytes():
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                largest = max(largest, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        except (OSError, IndexError):
            continue
    return largest


def measure(items: int, folder: Path) -> dict[str, Any]:
    """Run, stop at the middle, resume, and start once more with nothing to do."""
    manifest, out, log = make_load(folder / "images", items), folder / "run", folder / "published.log"
    first = Watched(manifest, out, log)
    first.stop_at(items // 2)
    first_s = first.finish()
    done_first = first.outputs()
    second = Watched(manifest, out, log)
    second_s = second.finish()
    idle = Watched(manifest, out, log)
    idle_s = idle.finish()
    return {
        "items": items,
        "first": {"seconds": round(first_s, 1), "outputs": done_first, "fifths": first.fifths()},
        "second": {"seconds": round(second_s, 1), "outputs": second.outputs(), "fifths": second.fifths()},
        "resume_to_first_output_s": round(second.first_output_s(), 1),
        "nothing_to_do_s": round(idle_s, 1),
        "outputs_on_disk": sum(1 for p in (out / "outputs").rglob("*.png")),
        "ledger_parts": sum(1 for _ in (out / "outcomes").iterdir()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--node", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.node:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with it ignored
        with contextlib.suppress(KeyboardInterrupt):
            run_node(RefineBatchConfig(manifest=arguments.node, out=str(arguments.out)))
        sys.exit()
    print(json.dumps(measure(arguments.items, arguments.out), indent=1))
