"""What the demo's references are worth, as given and registered: PSNR over M against the damaged input.

OMP_NUM_THREADS=1 python -m tests.bench.demo_references
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from refine_ops.chain import Refinement
from refine_ops.config import FocusSettings, ModelSettings, RefineSettings
from refine_ops.data.demo.material import Truth, make_demo
from refine_ops.job.planning.manifest import read_items
from refine_ops.model.open import open_refiner
from refine_ops.opened import open_item
from refine_ops.records import Item, Refiner
from tests.bench.bench_register import psnr

WAYS = {
    "tiny, as given, one crop": RefineSettings(
        model=ModelSettings(reference="as_given"), focus=FocusSettings(tiles="none")
    ),
    "tiny, registered, one crop": RefineSettings(focus=FocusSettings(tiles="none")),
    "tiny, registered, in tiles": RefineSettings(),
    "transfer, one crop": RefineSettings(model=ModelSettings(model="transfer"), focus=FocusSettings(tiles="none")),
}


def gain(item: Item, truth: Truth, settings: RefineSettings, refiner: Refiner) -> float:
    """Of one region alone, before it is written."""
    region = next(region for region in item.regions if region.region_id == truth.region_id)
    alone = replace(item, regions=(region,))
    named = filter(None, (item.image, region.mask, *region.all_references))
    files = {uri: Path(uri).read_bytes() for uri in named}
    refinement = Refinement(alone, open_item(alone, files, settings), settings, refiner)
    while not refinement.complete:
        refinement.absorb(refiner.refine_prepared([refiner.prepare(refinement.conditioning())])[0])
    made = refinement.canvas.rgb
    return psnr(made, truth.clean, truth.mask) - psnr(truth.damaged, truth.clean, truth.mask)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        manifest, truths = make_demo(Path(folder))
        items = {item.item_id: item for item in read_items(str(manifest)) if isinstance(item, Item)}
        known = [truth for truth in truths if truth.reference]
        print("| | " + " | ".join(truth.region_id for truth in known) + " |\n" + "| --- " * (len(known) + 1) + "|")
        for name, settings in WAYS.items():
            refiner = open_refiner(settings.model, torch.device("cpu"))
            gains = (gain(items[truth.item_id], truth, settings, refiner) for truth in known)
            print(f"| {name} | " + " | ".join(f"{value:+.1f} dB" for value in gains) + " |", flush=True)


if __name__ == "__main__":
    main()
