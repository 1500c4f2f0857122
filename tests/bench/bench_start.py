"""What a start costs: CPU seconds (user + system) of a command with every process below it.

    python -m tests.bench.bench_start [--runs 3]

Each figure is also given as a ratio to a process of the same machine that only imports torch and diffusers, because CPU
seconds of two machines, or of one that is busy otherwise, are not comparable.

Last runs, 2026-11-25, two cores, one run each. 8e2957f, which started Prefect's temporary server, torch's agent and a
pool for every report, on an idle machine: demo 21.7 s, ratio 7.42; run of one image 19.4 s, 6.65. 1eabbb3, beside other
work: demo 11.2 s, 2.70; run 8.1 s, 1.95.

2026-11-27, 9032380, which also judges, registers and refines in tiles, alone on two cores that share one, where the
yardstick takes 7.9 s: demo 32.7 s, 4.15; run 19.0 s, 2.41. `refine-ops image` of one photo: 17 s wall there, 8 s where
the yardstick takes 3 s.
"""

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from skimage import data

SCRIPT = str(Path(sys.executable).with_name("refine-ops"))
_PR_SET_CHILD_SUBREAPER = 36
YARDSTICK = [sys.executable, "-c", "import torch, diffusers"]


def measure(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """CPU and wall-clock seconds of a command and of all its descendants, those that outlive it included."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans come to this process, which waits for them
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = process.communicate()
    elapsed_s = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{said.decode()}")
    while _reaped():
        pass
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, elapsed_s


def _reaped() -> bool:
    try:
        os.wait()
    except ChildProcessError:
        return False
    return True


def one_image(folder: Path) -> Path:
    """A manifest of one photo with one region."""
    Image.fromarray(data.astronaut()).save(folder / "astronaut.png")
    region = {"box": [180, 60, 280, 180], "prompt": "Refine the face"}
    manifest = folder / "manifest.jsonl"
    manifest.write_text(json.dumps({"item_id": "astronaut", "image": "astronaut.png", "regions": [region]}))
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    print(f"CPU seconds of all processes, median of {runs}; wall-clock seconds; ratio to `import torch, diffusers`")
    yardstick = 0.0
    for name in ("import torch, diffusers", "refine-ops demo", "refine-ops run, one image"):
        taken = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "OMP_NUM_THREADS": "1"}
                out = ["--out", str(folder / "out")]
                commands = {
                    "import torch, diffusers": YARDSTICK,
                    "refine-ops demo": [SCRIPT, "demo", *out],
                    "refine-ops run, one image": [SCRIPT, "run", str(one_image(folder)), *out],
                }
                taken.append(measure(commands[name], environment))
        cpu_s, wall_s = (statistics.median(values) for values in zip(*taken, strict=True))
        yardstick = yardstick or cpu_s
        print(f"{name:28}{cpu_s:8.1f} s CPU{wall_s:8.1f} s{cpu_s / yardstick:8.2f}")


if __name__ == "__main__":
    main()
