"""Report folders of any size, from one really measured item repeated with other names and numbers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from refine_ops import storage
from refine_ops.report.config import Cost, MeasureSettings, Thresholds
from refine_ops.report.figures import Compared, RegionMeasure
from refine_ops.report.findings import region_findings
from refine_ops.report.items import PAGE_ITEMS, write_items, write_pictures
from refine_ops.report.measure.item import compare
from refine_ops.report.page.html import render_html
from refine_ops.report.run_items import open_run
from refine_ops.report.summary import run_figures, summarise
from tests.support.made_runs import MadeRun, photo_edit


def made_report(
    folder: Path,
    count: int,
    *,
    pictures: Callable[[int], bool],
    name: Callable[[int], str] = "sku-{:06d}".format,
    prompt: Callable[[int], str] = lambda i: "restore the logo on the tongue",
    category: Callable[[int], str] = lambda i: ("shoes", "bags", "hats")[i % 3],
    flagged: Callable[[int], bool] = lambda i: i % 100 == 7,
) -> Path:
    """A rendered report of `count` items; `flagged` ones have a seam, `pictures` says which carry theirs."""
    run = MadeRun(folder / "run")
    run.add("x", photo_edit(2))
    run_uri = run.write()
    (item,) = open_run(run_uri).items()
    real = compare(item, MeasureSettings(processes=1), True)
    rng = np.random.default_rng(0)
    all_compared = [
        _varied(real, i, float(rng.uniform(1, 30)), flagged(i), (name(i), prompt(i), category(i)), pictures(i))
        for i in range(count)
    ]
    out = str(folder / "report")
    for start in range(0, count, PAGE_ITEMS):
        write_pictures(out, start // PAGE_ITEMS, all_compared[start : start + PAGE_ITEMS])
    items = [c.measure for c in all_compared]
    write_items(out, [(item, i // PAGE_ITEMS) for i, item in enumerate(items)])
    figures = run_figures(run_uri, items, count, Cost())
    summary = summarise("made", "2026-11-23", items, [figures], [], [], Thresholds(), "no trend")
    storage.write(f"{out}/report.json", json.dumps(summary).encode())
    return Path(render_html(out))


def _varied(
    real: Compared, i: int, change: float, flagged: bool, texts: tuple[str, str, str], pictures: bool
) -> Compared:
    name, prompt, category = texts
    seam = 2.5 + i % 700 / 100 if flagged else i % 140 / 100
    metrics = real.measure.metrics | {"seam_de": seam, "change_levels": change}
    region = RegionMeasure("r0", prompt, metrics)
    measure = replace(
        real.measure,
        item_id=name,
        fingerprint=f"{i:032d}",
        image=f"s3://bucket/catalogue/{i:06d}.jpg",
        metrics=metrics,
        regions=(region,),
        findings=tuple(region_findings("r0", metrics, Thresholds())),
        slices={"category": category},
        finished_at=real.measure.finished_at + i,
    )
    return Compared(measure, real.thumb if pictures else b"", real.windows if pictures else ())
