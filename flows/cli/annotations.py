"""`refine-ops annotations`: what was drawn in other tools as a manifest, and a manifest as what they show."""

import sys
from typing import Annotated, Any

import typer

from flows.cli.options import ConfigFile, SetOption, load_config
from flows.progress import ProgressDisplay
from refine_ops.errors import EXIT_BAD_INPUT

annotations_app = typer.Typer(
    help="Import what was drawn in other tools, export a manifest to be corrected there.", no_args_is_help=True
)
_SHOWN = 20
_KINDS = "coco, label-studio, cvat, via, labelme, yolo, voc or masks"


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(annotations_app, name="annotations")


@annotations_app.command("import")
def import_(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=f"{_KINDS}.")],
    files: Annotated[list[str], typer.Argument(help="Annotation files, or folders of them; local or s3://.")],
    images: Annotated[str, typer.Option(help="Folder or s3:// prefix of the images; nothing outside is read.")],
    out: Annotated[str, typer.Option(help="The manifest to write, .parquet or .jsonl; masks lie beside it.")],
    prompt: Annotated[str | None, typer.Option(help="Of every region without one; {label} is filled in.")] = None,
    orientation: Annotated[
        str | None, typer.Option(help="auto, upright or stored: what coordinates on EXIF-turned photos mean.")
    ] = None,
    annotators: Annotated[str | None, typer.Option(help="all or latest, where several annotated one image.")] = None,
    predictions: Annotated[
        bool | None, typer.Option("--predictions", help="Label Studio: take predictions where nobody annotated.")
    ] = None,
    rings: Annotated[
        str | None, typer.Option(help="add or holes: what rings of one outline that overlap mean.")
    ] = None,
    shape: Annotated[str | None, typer.Option(help="drawn, or box: of everything its bounding box alone.")] = None,
    references: Annotated[str | None, typer.Option(help="Folder below which named references are taken from.")] = None,
    config: ConfigFile = None,
    set_: SetOption = None,
) -> None:
    """Write a manifest of what was drawn. Exit 1 if an entry could not be read; each is listed with its place."""
    from refine_ops.annotations.imports import import_annotations
    from refine_ops.annotations.settings import ImportSettings

    given: dict[str, Any] = {
        "images": images,
        "prompt": prompt,
        "orientation": orientation,
        "annotators": annotators,
        "predictions": predictions,
        "rings": rings,
        "shape": shape,
        "references": references,
    }
    settings = load_config(ImportSettings, config, set_, given)
    found = import_annotations(form, files, out, settings, on_progress=ProgressDisplay("import", "images").update)
    for remark in found.remarks:
        if remark.left_out:
            print(f"{remark.place}\t{remark.reason}\t{remark.message}")
    hidden = found.left_out - sum(remark.left_out for remark in found.remarks)
    if hidden:
        print(f"... and {hidden:,} more")
    for remark in [remark for remark in found.remarks if not remark.left_out][:_SHOWN]:
        print(f"NOTE {remark.place}: {remark.message}", file=sys.stderr)
    print(f"{found.describe()}\nmanifest  {out}", file=sys.stderr)
    if found.left_out:
        sys.exit(EXIT_BAD_INPUT)


@annotations_app.command("export")
def export(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="coco or label-studio.")],
    manifest: Annotated[str, typer.Argument(help="Parquet, JSONL or CSV.")],
    out: Annotated[str, typer.Option(help="The file to write, local or s3://.")],
    images: Annotated[
        str | None, typer.Option(help="Folder that the tool serves images from; default: the manifest's own.")
    ] = None,
    held: Annotated[
        str | None, typer.Option(help="A run folder: only the regions that were not accepted in it.")
    ] = None,
    detections: Annotated[
        str | None, typer.Option(help="The detections.parquet beside a detected manifest: classes and scores.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="How prompts are made of labels, where regions have no names.")] = (
        "Refine the {label}"
    ),
) -> None:
    """Write regions as pre-annotations that a person corrects in another tool. Exit 1 if one could not be written."""
    from refine_ops.annotations.exports import export_annotations

    found = export_annotations(
        form,
        manifest,
        out,
        images=images,
        prompt=prompt,
        held=held,
        detections=detections,
        on_progress=ProgressDisplay("export", "images").update,
    )
    for remark in found.remarks:
        print(f"{remark.place}\t{remark.reason}\t{remark.message}")
    print(f"{found.regions:,} regions of {found.images:,} images", file=sys.stderr)
    print(f"annotations  {out}", *([f"interface    {found.config}"] if found.config else []), sep="\n", file=sys.stderr)
    if found.remarks:
        sys.exit(EXIT_BAD_INPUT)
