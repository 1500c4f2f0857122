"""How fast a report is built, and in how much memory.

    python tests/bench/bench_report.py [--items 10000] [--processes N] [--distinct 40] [--format png|jpeg]

Writes `--distinct` pairs of 1-MP photos and regions to a scratch folder and names each of them many times as a run of
`--items`; compares with decoding the same files and nothing else, in the same number of processes. With one process the
times are CPU seconds, which a busy machine does not stretch.

Last full run: 2026-11-24, 5a0fef2, `--items 10000 --processes 2 --distinct 100`, two cores: 179 s, 56 items/s, 2.2
times the bare decoding of the same files, 351 MiB for all processes together.
"""

import argparse
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

from refine_ops.config import ImageLimits, WriteSettings
from refine_ops.image.paste import Canvas, blend_mask
from refine_ops.image.read import decode
from refine_ops.image.write import encode
from refine_ops.proof.allowed import Rules
from refine_ops.records import Alignment, FocusCrop, Region
from refine_ops.report.config import MeasureSettings
from refine_ops.report.measure.many import measure_items
from refine_ops.report.run_items import ReportedItem

SIDE = 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--distinct", type=int, default=40)
    parser.add_argument("--format", choices=("png", "jpeg"), default="jpeg")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pairs = [_pair(Path(scratch), i, options.format) for i in range(options.distinct)]
        settings = MeasureSettings(processes=options.processes)
        clock = time.process_time if options.processes == 1 else time.perf_counter
        started = clock()
        with _Memory() as memory:
            items = measure_items(_items(pairs, options.items), options.items, f"{scratch}/report", settings)
        measured_s = clock() - started
        started = clock()
        _decode_only(pairs, options.items, options.processes)
        decoded_s = clock() - started
        flagged = sum(bool(i.findings) for i in items)
        print(f"{len(items)} items of 1 MP ({options.format}), {options.processes} processes, {flagged} flagged")
        print(f"measure: {measured_s:.1f} s, {len(items) / measured_s:.1f} items/s")
        print(f"decode of the same files alone: {decoded_s:.1f} s; ratio {measured_s / decoded_s:.2f}")
        print(f"memory, this process and its children together (PSS): {memory.peak_mib:.0f} MiB")
        print(f"peak of this process alone: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def _pair(folder: Path, number: int, kind: str) -> tuple[str, str, Region]:
    photo = getattr(data, ("astronaut", "coffee", "chelsea", "rocket")[number % 4])()
    photo = cv2.resize(photo, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(number)
    x, y = (int(v) for v in rng.integers(100, 700, 2))
    out = BytesIO()
    Image.fromarray(photo).save(out, kind.upper(), **({"quality": 92} if kind == "jpeg" else {"compress_level": 6}))
    source = decode(out.getvalue(), name="bench", limits=ImageLimits())
    canvas = Canvas(source)
    crop = (x - 64, y - 64, x + 264, y + 264)
    mask = np.zeros((328, 328), bool)
    mask[64:264, 64:264] = True
    patch = source.rgb[crop[1] : crop[3], crop[0] : crop[2]].astype(np.float32) / 255
    patch = np.clip(patch + 0.6 * (patch - cv2.GaussianBlur(patch, (0, 0), 2)), 0, 1)
    canvas.paste(FocusCrop((x, y, x + 200, y + 200), crop, (0, 0, 0, 0), (328, 328)), patch, blend_mask(mask))
    paths = [folder / f"{number}-{side}.{kind}" for side in ("before", "after")]
    for path, content in zip(paths, (source.data, encode(source, canvas, WriteSettings()).data), strict=True):
        path.write_bytes(content)
    return str(paths[0]), str(paths[1]), Region("r0", "restore it", box=(x, y, x + 200, y + 200))


def _items(pairs: list[tuple[str, str, Region]], count: int) -> Iterator[ReportedItem]:
    drift = {"r0": Alignment(measured=True, dx_px=0.2, de00_before=1.0)}
    for i in range(count):
        before, after, region = pairs[i % len(pairs)]
        yield ReportedItem("bench", f"item-{i}", before, after, Rules(), regions=(region,), alignments=drift)


def _decode_only(pairs: list[tuple[str, str, Region]], count: int, processes: int) -> None:
    files = [pairs[i % len(pairs)][:2] for i in range(count)]
    if processes == 1:
        for pair in files:
            _decode(pair)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("forkserver")) as pool:
        list(pool.map(_decode, files, chunksize=16))


def _decode(files: tuple[str, str]) -> int:
    return sum(decode(Path(f).read_bytes(), name=f, limits=ImageLimits()).width for f in files)


class _Memory:
    """Peak of the proportional set size of this process and all its descendants, sampled twice a second."""

    def __enter__(self) -> "_Memory":
        self.peak_mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.peak_mib = max(self.peak_mib, sum(map(_pss_mib, _family(os.getpid()))))


def _family(pid: int) -> list[int]:
    try:
        text = " ".join(p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return []
    return [pid, *(member for child in text.split() for member in _family(int(child)))]


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


if __name__ == "__main__":
    sys.exit(main())
