"""`refine-ops mark`: draw regions on a page of this machine."""

import contextlib
import html
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from refine_ops.mark.session import MarkSession


def mark(
    folder: Annotated[str, typer.Argument(help="The folder with the images, those below it too; or one image.")],
    manifest: Annotated[
        str | None,
        typer.Option(help="JSONL, CSV or Parquet; what it marks is drawn. Default: manifest.jsonl in the folder."),
    ] = None,
    references: Annotated[
        str | None, typer.Option(help="A folder with pictures of how things should look, to choose from.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Mark regions on a page in your browser: boxes, scribbles, a brush. Every change is saved in the manifest."""
    from refine_ops.mark.folder import list_images
    from refine_ops.mark.server import MarkServer
    from refine_ops.mark.session import MarkSession

    beside = folder if os.path.isdir(folder) else os.path.dirname(folder)
    manifest = manifest or os.path.join(beside, "manifest.jsonl")
    stem = os.path.splitext(manifest)[0]
    listed = list_images(folder, [f"{stem}.masks", *([references] if references else [])])
    known = list_images(references) if references else None
    if listed.passed_over:
        print(f"NOTE: {_counted(listed.passed_over, 'file')} passed over; the first: {listed.why}", file=sys.stderr)
    session = MarkSession.open(manifest, listed, known.images if known else ())
    print(f"{_counted(len(listed.images), 'image')}; {_marked(session)} in {manifest}")
    if session.elsewhere:
        print(f"kept as they are: {_counted(session.elsewhere, 'row')} of images elsewhere")
    with MarkServer(session, port) as server, _doorway(server.site.url) as door:
        print(f"\nOpen this page (it is yours alone):\n\n    {server.site.url}\n\nCtrl-C ends it.", flush=True)
        if browser:
            import webbrowser

            webbrowser.open(Path(door).as_uri())
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.1)
    print(f"\n{_marked(session)} in {manifest}")
    if session.marked[1]:
        print(f"refine them   {session.command}")


def _marked(session: "MarkSession") -> str:
    images, regions = session.marked
    return f"{_counted(regions, 'region')} on {_counted(images, 'image')}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


@contextlib.contextmanager
def _doorway(url: str) -> Iterator[str]:
    """A file that leads to the page, readable by this user alone: a browser's own command line, which would hold the
    key to the page, can be read by everybody on the machine."""
    with tempfile.TemporaryDirectory(prefix="refine-ops-mark-") as hidden:
        door = os.path.join(hidden, "open.html")
        Path(door).write_text(
            f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
            f'<meta http-equiv="refresh" content="0; url={html.escape(url)}"><title>refine-ops mark</title>'
        )
        yield door
