"""Commands for a run folder that lives on: `starts`, `export`, `verify`, `rollback`, `prune`, `take-over`."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from flows.cli.options import fail
from flows.progress import ProgressDisplay, duration
from refine_ops.errors import EXIT_BAD_INPUT, JobError
from refine_ops.job import export as exporting
from refine_ops.job import published, upkeep
from refine_ops.job.run_folder import reopen_run
from refine_ops.job.starts import read_starts

Run = Annotated[str, typer.Argument(help="Run folder, local or s3://.")]
_SHOWN: int = 20


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (starts, export, verify, rollback, prune):
        app.command()(command)
    app.command("take-over")(take_over)


def starts(run: Run) -> None:
    """Every start of a run folder: when, how it ended, how much may be used after it, and what it did and took."""
    folder, _ = reopen_run(run)
    snapshots = set(published.committed(folder.uri))
    for start in read_starts(folder.uri):
        opened = datetime.fromtimestamp(start.opened_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        ended = "open" if start.exit is None else start.exit
        usable = published.read(folder.uri, start.number).table.num_rows if start.number in snapshots else None
        rows = "" if usable is None else f"{usable} published"
        print(f"{start.number:>6}  {opened}  {ended:<10}  {rows:<18}  {_did(start.end or {})}".rstrip())


def _did(end: dict[str, Any]) -> str:
    said = [f"{end[what]} {what}" for what in ("done", "held", "dead", "left") if end.get(what)]
    return ", ".join([*said, f"{duration(end['device_s'])} of device time"] if end.get("device_s") else said)


def export(
    run: Run,
    to: Annotated[str | None, typer.Option(help="Folder or s3:// prefix to bring up to date.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Instead: print name, URI and SHA-256 of everything.")] = False,
    max_removed: Annotated[float, typer.Option(help="Largest share of the target's files that may be removed.")] = 0.1,
) -> None:
    """Copy what may be used to where it is used: only what changed, and what is no longer published goes."""
    if list_ == (to is not None):
        raise JobError("give either --to TARGET or --list")
    if to is None:
        for name, uri, digest in exporting.file_list(run):
            print(f"{name}\t{uri}\t{digest}")
        return
    found = exporting.export(run, to, max_removed=max_removed, on_progress=ProgressDisplay("export").update)
    print(f"{len(found.copied)} copied, {len(found.removed)} removed, {found.unchanged} unchanged at {to}")


def verify(
    run: Run,
    repair: Annotated[bool, typer.Option(help="Take damaged ones out at once; the next start remakes them.")] = True,
) -> None:
    """Read every published output and compare it with what was published. Exit 1 if any is lost or altered."""
    folder, _ = reopen_run(run)
    count, damaged = upkeep.check_outputs(folder, repair=repair, on_progress=ProgressDisplay("verify").update)
    for one in damaged[:_SHOWN]:
        print(f"{one.reason}\t{one.item_id}\t{one.name}")
    if len(damaged) > _SHOWN:
        print(f"... and {len(damaged) - _SHOWN} more")
    if not damaged:
        print(f"{count} published outputs, every one as it was published")
        return
    then = "taken out of the published set; the next start refines them again" if repair else "left as they are"
    fail(f"{len(damaged)} of {count} published outputs are damaged: {then}", EXIT_BAD_INPUT)


def rollback(run: Run, to: Annotated[int, typer.Option(help="Start whose pictures are to be used again.")]) -> None:
    """Use the pictures of an earlier start again. What was refined since stays in the folder, unused."""
    folder, _ = reopen_run(run)
    snapshot = upkeep.roll_back(folder, to)
    print(f"{snapshot.table.num_rows} pictures as after start {to}, published as start {snapshot.start}")


def prune(
    run: Run,
    snapshots: Annotated[int, typer.Option(help="Published sets to keep, counted from the newest.")] = 30,
    min_age_days: Annotated[float, typer.Option(help="Younger files are left alone.")] = 7.0,
    delete: Annotated[
        bool, typer.Option("--delete", help="Really remove; without it, only say what would go.")
    ] = False,
) -> None:
    """Remove outputs, patches and masks that no kept published set names. Shows first; never while a start is open."""
    folder, _ = reopen_run(run)
    found = upkeep.prune(folder, snapshots=snapshots, min_age_days=min_age_days, dry_run=not delete)
    for uri in found.uris[:_SHOWN]:
        print(uri)
    if len(found.uris) > _SHOWN:
        print(f"... and {len(found.uris) - _SHOWN} more")
    done = "removed" if found.removed else "would be removed; --delete removes them"
    print(f"{len(found.uris)} files {done}, {found.kept} kept")


def take_over(run: Run) -> None:
    """Bring a run folder of release 0.1.0 to the present form; nothing is refined for it. Exit 1 if one was lost."""
    from refine_ops.job.take_over import take_over as take

    folder, _ = reopen_run(run)
    found = take(folder, ProgressDisplay("take over").update)
    print(f"{found.published} pictures published, as they were")
    if found.damaged:
        fail(f"{found.damaged} outputs were lost or altered; the next start refines them again", EXIT_BAD_INPUT)
