"""Host work of the worker around a trivial refiner, as a ratio to plain decode + encode of the same files.

    python -m tests.bench.bench_overhead [--items 40] [--side 1024]

CPU seconds of one process, all threads. The plain loop decodes as the worker does and encodes with OpenCV: PNG at zlib
level 4, JPEG at quality 92; the sizes of what both wrote are printed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from skimage import data

from refine_ops import storage
from refine_ops.config import AccessSettings, ImageLimits, RefineSettings, WorkerSettings
from refine_ops.image import read
from refine_ops.job.ledger import LedgerWriter, read_ledger
from refine_ops.job.planning.manifest import SCHEMA
from refine_ops.job.planning.plan import PlanReader, make_plan
from refine_ops.job.rank.pipeline import Pipeline
from refine_ops.job.run_folder import RunFolder
from refine_ops.job.scratch import Assignment, Journal, Scratch, Spec
from tests.support.trivial_worker import TrivialRefiner

LIMITS = ImageLimits()


def photos(folder: Path, count: int, side: int, suffix: str) -> list[dict[str, object]]:
    """Photos of `side`^2 with sensor noise, so that codecs work as hard as on real ones."""
    rng = np.random.default_rng(0)
    base = cv2.resize(data.astronaut(), (side, side), interpolation=cv2.INTER_CUBIC)
    rows: list[dict[str, object]] = []
    for i in range(count):
        noisy = np.clip(np.roll(base, 37 * i, axis=1) + rng.normal(0, 2, base.shape), 0, 255).astype(np.uint8)
        name = f"{i}{suffix}"
        Image.fromarray(noisy).save(folder / name, quality=92)
        box = [side // 3, side // 3, side // 3 + side // 6, side // 3 + side // 8]
        rows.append({"item_id": str(i), "image": name, "regions": [{"box": box, "prompt": "Refine it"}]})
    return rows


def plain(folder: Path, rows: list[dict[str, object]]) -> None:
    """Read, decode, encode, write: what any batch job over these files must do."""
    for row in rows:
        name = str(row["image"])
        source = read.decode((folder / name).read_bytes(), name="plain", limits=LIMITS)
        settings = [cv2.IMWRITE_PNG_COMPRESSION, 4] if source.format == "png" else [cv2.IMWRITE_JPEG_QUALITY, 92]
        encoded = cv2.imencode(Path(name).suffix, np.ascontiguousarray(source.rgb[..., ::-1]), settings)[1]
        storage.write(str(folder / "plain" / name), encoded.tobytes())


def mean_bytes(folder: Path) -> float:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(sizes) / len(sizes)


def through_the_worker(folder: Path, rows: list[dict[str, object]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "manifest.parquet")
    run = RunFolder(str(folder / "run"), "bench")
    make_plan(str(folder / "manifest.parquet"), run.uri, access=AccessSettings())
    worker = WorkerSettings(read_threads=2, write_threads=2)
    spec = Spec(run.uri, "bench", 0, RefineSettings(), worker, AccessSettings(), keep_patches="none", solo=False)
    positions = iter(range(len(rows)))
    ledger = LedgerWriter(run.outcomes, "bench")

    def take() -> Assignment | None:
        position = next(positions, None)
        return None if position is None else Assignment(position)

    pipeline = Pipeline(
        spec=spec,
        folder=run,
        plan=PlanReader(run.plan),
        take=take,
        refiner=TrivialRefiner(),
        device_works=lambda: True,
        ledger=ledger,
        journal=Journal(Scratch(folder / "scratch"), 0),
        rank=0,
    )
    pipeline.run()
    ledger.flush()
    outcomes = read_ledger(run.outcomes).to_pylist()
    assert [o["status"] for o in outcomes] == ["done"] * len(rows), outcomes[0]
    steps: dict[str, float] = {}
    for outcome in outcomes:
        for step, seconds in outcome["timings_s"]:
            steps[step] = steps.get(step, 0.0) + 1000 * seconds / len(rows)
    print("   wall ms per item and step: " + ", ".join(f"{k} {v:.0f}" for k, v in steps.items()))


def cpu_s(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--side", type=int, default=1024)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{options.items} photos of {options.side}^2, one region; CPU ms per item")
    for suffix in (".png", ".jpg"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows = photos(folder, options.items, options.side, suffix)
            plain(folder, rows[:2])
            baseline = cpu_s(partial(plain, folder, rows)) / options.items
            ours = cpu_s(partial(through_the_worker, folder, rows)) / options.items
            sizes = mean_bytes(folder / "plain") / 1e6, mean_bytes(folder / "run" / "current") / 1e6
        print(
            f"{suffix}: plain {1000 * baseline:.0f} ({sizes[0]:.2f} MB), worker {1000 * ours:.0f} ({sizes[1]:.2f} MB), "
            f"ratio {ours / baseline:.2f}"
        )


if __name__ == "__main__":
    main()
