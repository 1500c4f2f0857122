"""`refine-ops image`: one picture, refined in this process."""

import logging
import os
import sys
import time
from pathlib import PurePosixPath
from typing import Annotated, Any

import typer

from flows.cli.options import ConfigFile, SetOption, fail, load_config, note_tiny
from refine_ops import storage
from refine_ops.config import RefineBatchConfig
from refine_ops.errors import EXIT_BAD_INPUT, ItemError, JobError


def image(
    picture: Annotated[str, typer.Argument(help="JPEG, PNG, WebP or TIFF; local path, file:// or s3://.")],
    box: Annotated[str | None, typer.Option(help="x0,y0,x1,y1 in pixels of the upright picture.")] = None,
    mask: Annotated[str | None, typer.Option(help="A picture of the same size, white where it is marked.")] = None,
    scribble: Annotated[
        list[str] | None, typer.Option(help="A stroke 'x,y x,y ...', or JSON as in a manifest. Repeatable.")
    ] = None,
    width: Annotated[float, typer.Option(help="Of the scribble's strokes, in pixels.")] = 16,
    reference: Annotated[
        list[str] | None, typer.Option(help="A picture of how it should look, or a folder of them. Repeatable.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What to refine ('tiny' does not read it).")] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="Default: the picture's name with .refined.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Also write a picture of before and after.")] = False,
    model: Annotated[str | None, typer.Option(help="Preset, folder in diffusers' layout, or hub name.")] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="LoRA file or folder. Repeatable.")] = None,
    allow_hub: Annotated[bool | None, typer.Option("--allow-hub", help="Download named hub models.")] = None,
    publish: Annotated[
        str | None, typer.Option(help="gated: only what is not worse, on evidence; all: whatever comes.")
    ] = None,
    candidates: Annotated[int | None, typer.Option(help="Seeds to try at most, while none is accepted.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: derived from the picture's name.")] = None,
    mask_level: Annotated[int | None, typer.Option(help="Values of the mask that mark start here.")] = None,
    mask_class: Annotated[int | None, typer.Option(help="The marked class of a label image.")] = None,
    mask_invert: Annotated[bool | None, typer.Option("--mask-invert", help="The mask marks what to keep.")] = None,
    config: ConfigFile = None,
    set_: SetOption = None,
) -> None:
    """Refine one region of one picture, here and now, and say what changed."""
    started = time.monotonic()
    given = {
        "manifest": picture,
        "refine.model.model": model,
        "refine.model.adapters": tuple(adapter) if adapter else None,
        "refine.model.allow_hub": allow_hub,
        "refine.publish": publish,
        "refine.candidates": candidates,
    }
    settings = load_config(RefineBatchConfig, config, set_, given)
    if sum(bool(marked) for marked in (box, mask, scribble)) != 1:
        raise JobError("mark one region: --box x0,y0,x1,y1, or --mask FILE, or --scribble 'x,y x,y ...'")
    note_tiny(settings.refine)
    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it warns of an empty list of modules, six times
    from refine_ops.single.call import refine
    from refine_ops.single.result import check_target, output_format

    try:
        target = _target(picture, out)
        if out is not None:
            check_target(target, [u for u in (picture, mask, *(reference or ())) if u])
        result = refine(
            picture,
            box=box,
            mask=mask,
            scribble=_strokes(scribble, width) if scribble else None,
            prompt=prompt,
            reference=reference,
            seed=seed,
            settings=output_format(target, settings.refine),
            access=settings.access,
            mask_level=mask_level,
            mask_class=mask_class,
            mask_invert=mask_invert,
        )
    except ItemError as e:
        fail(f"{e.reason}: {e}", EXIT_BAD_INPUT)
    if out is None:
        target += "" if target.lower().endswith(result.suffixes) else result.suffixes[0]
    print(f"{result}, {time.monotonic() - started:.1f} s")
    if not result.all_held:
        print(f"refined       {result.save(target)}")
    if show:
        comparison = str(PurePosixPath(target).with_suffix("")) + ".before-after.png"
        print(f"before/after  {result.save_comparison(comparison)}")
    for warning in result.warnings:
        print(f"NOTE: {warning}", file=sys.stderr)
    if result.all_held:
        look = "" if show else "--show draws it beside the source; "
        fail(
            f"{result.why}. Nothing was written, the source stands. {look}--candidates 4 tries other seeds; "
            "--publish all writes it all the same",
            EXIT_BAD_INPUT,
        )


def _target(picture: str, out: str | None) -> str:
    """Where the result goes: as told, in the folder that was told, or beside the picture."""
    source = PurePosixPath(storage.resolve(picture))
    from refine_ops.image.formats.native import EDITED, SUFFIXES

    converted = {suffix for kind, suffixes in SUFFIXES.items() if kind not in EDITED for suffix in suffixes}
    suffix = ".png" if source.suffix.lower() in converted else source.suffix
    beside = str(picture)[: len(picture) - len(source.suffix)] + ".refined" + suffix
    if out is None:
        return beside
    return storage.join(storage.resolve(out), PurePosixPath(beside).name) if _is_folder(out) else out


def _is_folder(out: str) -> bool:
    return out.endswith("/") or os.path.isdir(out)


def _strokes(scribble: list[str], width: float) -> dict[str, Any] | str:
    """`{"strokes": ..., "width": ...}` from strokes of points, or the one JSON object that was given."""
    if len(scribble) == 1 and scribble[0].lstrip().startswith("{"):
        return scribble[0]
    strokes = []
    for stroke in scribble:
        points = [point.split(",") for point in stroke.split()]
        try:
            strokes.append([[float(x), float(y)] for x, y in points])
        except ValueError as e:
            raise JobError(f"--scribble {stroke!r}: expected points 'x,y x,y ...' in pixels") from e
    return {"strokes": strokes, "width": width}
