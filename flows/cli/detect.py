"""Command `detect`: from a folder of images to a manifest."""

import logging
from typing import Annotated, Any

import typer

from flows.cli.options import ConfigFile, SetOption, Verbose, load_config, start_prefect
from refine_ops.config import prefect_is_set_up


def detect(
    source: Annotated[
        str, typer.Argument(help="Folder or s3:// prefix of images, or a list of them (Parquet, JSONL, CSV).")
    ],
    out: Annotated[str | None, typer.Option(help="Folder, local or s3://. The same folder resumes.")] = None,
    find: Annotated[
        list[str] | None, typer.Option(help="What to look for: text. Repeatable; default text, or what --like names.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="Folder of right pictures (logos, labels): where they appear is found.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="all, or damaged: only what its evidence says is damaged.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only images of this pattern, e.g. 'shoes/*'.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave out images of this pattern. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N images.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.")] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="ITEM", help="Say what becomes of each detection of one image; write nothing.")
    ] = None,
    config: ConfigFile = None,
    set_: SetOption = None,
    verbose: Verbose = False,
) -> None:
    """Find regions that want refining, as a manifest (flow `detect-regions`)."""
    from refine_ops.detect.regions.config import DetectRegionsConfig

    detectors: list[dict[str, Any]] = [{"kind": kind} for kind in find or ()]
    if like is not None:
        detectors.append({"kind": "like", "references": like})
    given = {
        "source": source,
        "out": out,
        "detectors": tuple(detectors) or None,
        "only": only,
        "include": tuple(include) if include else None,
        "exclude": tuple(exclude) if exclude else None,
        "limit": limit,
        "workers": workers,
    }
    settings = load_config(DetectRegionsConfig, config, set_, given)
    if explain is not None:
        from flows.steps.detect import explain as explain_item

        print(*explain_item(settings, explain), sep="\n")
        return
    if prefect_is_set_up():
        start_prefect(verbose)
        from flows.detect_regions import detect_regions

        summary = detect_regions(settings)
    else:
        level = logging.INFO if verbose else logging.WARNING
        logging.basicConfig(level=level, format="%(asctime)s | %(levelname)s | %(name)s - %(message)s")
        from flows.steps.detect import detect as detect_here

        summary = detect_here(settings)
    print(
        f"{summary.regions:,} regions in {summary.with_regions:,} of {summary.images:,} images, {summary.dead:,} could "
        f"not be read; {summary.detections:,} found"
    )
    for fate, count in summary.detections_by_fate.items():
        print(f"  {fate:10}{count:>9,}")
    print(f"manifest    {summary.manifest}")
    print(f"detections  {summary.out}/detections.parquet")
    if summary.with_regions:
        print(f"look here   {summary.sheet}")
    if summary.dead:
        print(f"not read    {summary.out}/dead_letter.parquet")
