"""What provenance costs per file: `OMP_NUM_THREADS=1 python -m tests.bench.bench_provenance [--pixels 12]`.

CPU seconds of one 12-MP file and one region, refiner of the tests, median of three: without provenance, marked, signed;
then what trying out who signs takes before a run.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from refine_ops.chain import refine_image
from refine_ops.config import ProvenanceSettings, RefineSettings
from refine_ops.provenance.rehearsal import rehearse
from refine_ops.records import Item, Region
from tests.support.certificates import camera_signed, make_identity
from tests.support.made_files import jpeg, png, tiff, webp
from tests.support.pixels import KnownRefiner

_POLICIES = {
    "none": ProvenanceSettings(),
    "iptc": ProvenanceSettings(mark="iptc"),
    "c2pa": ProvenanceSettings(mark="c2pa"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=float, default=12, help="millions")
    millions = parser.parse_args().pixels
    side = int((millions * 1e6 / 12) ** 0.5)
    rgb = cv2.resize(data.astronaut(), (4 * side, 3 * side), interpolation=cv2.INTER_CUBIC)
    files = {
        "jpeg": jpeg(rgb, "420"),
        "png": png(np.ascontiguousarray(rgb)),
        "webp": webp(rgb, True),
        "tiff": tiff(rgb, "zlib"),
    }
    box = (4 * side // 5, 3 * side // 5, 11 * side // 10, 9 * side // 10)
    item = Item("a", "a", "a", (Region("r", "Refine it", box=box),), row=0)
    with tempfile.TemporaryDirectory() as folder:
        operator = make_identity(Path(folder))
        os.environ["REFINE_C2PA_CERTIFICATE"], os.environ["REFINE_C2PA_KEY"] = map(str, (operator.chain, operator.key))
        print(f"| {millions:g} MP | none | iptc | c2pa | source signed, c2pa | credential |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, file in files.items():
            signed = camera_signed(file, operator)
            runs = [(file, policy) for policy in _POLICIES.values()] + [(signed, _POLICIES["c2pa"])]
            costs = [_cost(item, source, policy) for source, policy in runs]
            grown = costs[2][1] - costs[0][1]
            print(
                f"| {name} | " + " | ".join(f"{seconds:.2f} s" for seconds, _ in costs) + f" | {grown / 1024:.1f} KiB |"
            )
        started = time.process_time()
        rehearse()
        print(f"\nwho signs was tried out in {time.process_time() - started:.3f} s")


def _cost(item: Item, source: bytes, policy: ProvenanceSettings) -> tuple[float, int]:
    """CPU seconds, and bytes of the file."""
    spent, size = [], 0
    for _ in range(3):
        started = time.process_time()
        size = len(refine_image(item, {"a": source}, KnownRefiner(), RefineSettings(provenance=policy)).data)
        spent.append(time.process_time() - started)
    return statistics.median(spent), size


if __name__ == "__main__":
    main()
