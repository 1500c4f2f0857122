"""The command line `refine-ops`. Commands are thin: they make a typed config and call the flow."""

import importlib.metadata
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from flows.cli import annotations, quality, training, upkeep
from flows.cli.detect import detect
from flows.cli.doctor import doctor
from flows.cli.image import image
from flows.cli.mark import mark
from flows.cli.options import SAMPLE, ConfigFile, Sample, SetOption, Verbose, fail, load_config, note_tiny, run_batch
from refine_ops.config import RefineBatchConfig
from refine_ops.errors import EXIT_BAD_INPUT, EXIT_DRAINED, EXIT_JOB_ERROR, ItemError, JobError, Unacceptable

if TYPE_CHECKING:
    pass


class _ByUse(TyperGroup):
    """Commands in the order in which people come to need them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(
            super().list_commands(ctx), key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)
        )


_ORDER: Final = (
    *("demo", "image", "detect", "mark", "annotations", "run", "check", "report", "review"),
    *("starts", "export", "verify", "rollback", "prune", "take-over", "doctor"),
    *("build-dataset", "train", "ablate", "eval", "calibrate", "adapters"),
)
app = typer.Typer(
    cls=_ByUse,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXIT_INTERRUPTED = 130
"""Ctrl-C, as shells say it."""
EXIT_DEFECT = 70
"""A defect of this package (`EX_SOFTWARE`)."""
_STOPPED = "stopped; what is done is recorded, run the same command again to go on"

app.command()(image)
app.command()(mark)
app.command()(detect)
app.command()(doctor)
annotations.register(app)
quality.register(app)
training.register(app)
upkeep.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("refine-ops"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Refine user-marked regions of images in batches, and prove that no other pixel changed."""


def main() -> None:
    """Entry point: every error becomes one message and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if app(standalone_mode=False) == EXIT_INTERRUPTED:  # what Typer makes of a KeyboardInterrupt
            fail(_STOPPED, EXIT_INTERRUPTED)
    except (JobError, ItemError) as e:
        fail(str(e), EXIT_BAD_INPUT if isinstance(e, Unacceptable) else EXIT_JOB_ERROR)
    except typer.Abort:
        fail("aborted", EXIT_INTERRUPTED)
    except _Terminated:
        fail(_STOPPED, EXIT_DRAINED)
    except Exception as e:  # noqa: BLE001 -- the end of the command line
        if hasattr(e, "format_message"):  # click's own usage errors
            _end_misused(e)
        _end_stopped(e)
        fail(_unexpected(e), EXIT_DEFECT)


def _end_misused(error: Any) -> NoReturn:
    """What was typed is no command: say why, and where all of it is told. Where help was shown, that is enough."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if not message:
        sys.exit(EXIT_JOB_ERROR)
    command = context.command_path if context is not None else "refine-ops"
    fail(f"{message.rstrip('.')}; see {command} --help", EXIT_JOB_ERROR)


def _unexpected(error: Exception) -> str:
    """A defect of this package in one message; the traceback lies in a file, for whoever mends it."""
    with tempfile.NamedTemporaryFile("w", prefix="refine-ops-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return f"unexpected {type(error).__name__}: {error}; please report it with {file.name}"


class _Terminated(SystemExit):
    """SIGTERM came."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated(EXIT_DRAINED)


def _end_stopped(error: BaseException | None) -> None:
    """Exit with one message if the user stopped the command, even where Prefect's server, stopped by the same signal,
    could not be told and that is the error which came out."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt | _Terminated):
            code = EXIT_DRAINED if isinstance(error, _Terminated) else EXIT_INTERRUPTED
            fail(_STOPPED, code)
        error = error.__context__


@app.command()
def run(
    manifest: Annotated[str, typer.Argument(help="Parquet, JSONL or CSV; local path, file:// or s3://.")],
    out: Annotated[str | None, typer.Option(help="Run folder, local or s3://. The same folder resumes.")] = None,
    model: Annotated[str | None, typer.Option(help="Preset, folder in diffusers' layout, or hub name.")] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="LoRA file, folder or registry name. Repeatable.")] = None,
    registry: Annotated[
        str | None, typer.Option(help="Adapter registry that names such as 'current' refer to.")
    ] = None,
    allow_hub: Annotated[bool | None, typer.Option("--allow-hub", help="Download named hub models.")] = None,
    processes: Annotated[int | None, typer.Option(help="Ranks on this node; default one per GPU.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N items.")] = None,
    canary: Annotated[int | None, typer.Option(help="Refine a sample of N first, within canary_limits.")] = None,
    retry_dead: Annotated[bool | None, typer.Option("--retry-dead", help="Also redo dead items.")] = None,
    error_budget: Annotated[float | None, typer.Option(help="Fail above this share of dead items.")] = None,
    publish: Annotated[
        str | None, typer.Option(help="gated: regions that are not worse, on evidence; all: whatever comes.")
    ] = None,
    candidates: Annotated[int | None, typer.Option(help="Seeds per region at most, while none is accepted.")] = None,
    output_format: Annotated[str | None, typer.Option(help="source, png or webp-lossless.")] = None,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Count and estimate; refine nothing.")] = False,
    price: Annotated[
        float | None, typer.Option(min=0, help="With --plan-only: what one device costs per hour.")
    ] = None,
    sample: Sample = SAMPLE,
    config: ConfigFile = None,
    set_: SetOption = None,
    verbose: Verbose = False,
) -> None:
    """Refine every region of a manifest (flow `refine-batch`)."""
    given = {
        "manifest": manifest,
        "out": out,
        "refine.model.model": model,
        "refine.model.adapters": tuple(adapter) if adapter else None,
        "refine.model.registry": registry,
        "refine.model.allow_hub": allow_hub,
        "worker.processes": processes,
        "limit": limit,
        "canary": canary,
        "retry_dead": retry_dead,
        "error_budget": error_budget,
        "refine.publish": publish,
        "refine.candidates": candidates,
        "refine.write.output_format": output_format,
    }
    settings = load_config(RefineBatchConfig, config, set_, given)
    if plan_only:
        from flows.cli.estimate import plan_only as count

        note_tiny(settings.refine)
        print(count(settings, price, sample))
        return
    note_tiny(settings.refine)
    from flows.steps.batch import BudgetExceeded

    try:
        summary = run_batch(settings, verbose)
    except BudgetExceeded as e:
        _print_report(settings.out)
        fail(str(e), EXIT_BAD_INPUT)
    print(
        f"{summary.done} done, {summary.held} held, {summary.dead} dead, {summary.changed_outside_px} px changed "
        "outside the allowed change"
    )
    print(f"outputs  {summary.run}/current\nsummary  {summary.summary}\nbefore/after  {summary.contact_sheet}")
    _print_report(summary.run)
    if summary.left:
        fail(f"the deadline came with {summary.left} items left; the same command goes on with them", EXIT_DRAINED)


def _print_report(run: str) -> None:
    """Where the report lies, if one was made."""
    from refine_ops import storage

    uri = storage.join(storage.resolve(run), "report", "report.html")
    if storage.exists(uri):
        print(f"report  {uri}")


@app.command()
def check(
    manifest: Annotated[str, typer.Argument(help="Parquet, JSONL or CSV.")],
    open_files: Annotated[
        bool, typer.Option("--open", help="Also open images, masks and references, and say what is marked.")
    ] = False,
    sample: Sample = SAMPLE,
    sheet: Annotated[
        str | None, typer.Option(help="Also draw the marked pixels over their pictures, as this PNG; opens them.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The preset that the regions will be shown to.")] = None,
    config: ConfigFile = None,
    set_: SetOption = None,
) -> None:
    """Print every row that could not be refined, with its reason; exit 1 if there is any."""
    settings = load_config(RefineBatchConfig, config, set_, {"manifest": manifest, "refine.model.model": model})
    from flows.cli.check import check_manifest
    from refine_ops import storage
    from refine_ops.tables.read import numbering

    checked = check_manifest(
        settings, open_files=open_files or sheet is not None, sheet=sheet is not None, sample=sample
    )
    for problem in checked.problems:
        print(f"row {problem.row}\t{problem.item_id!r}\t{problem.reason}\t{problem.message}")
    bad = len({p.row for p in checked.problems})
    counted = f"{checked.plan.items:,} items planned, {bad:,} rows have problems ({numbering(manifest)})"
    print(*filter(None, (checked.describe(), counted)), sep="\n", file=sys.stderr)
    if sheet is not None:
        storage.write(storage.resolve(sheet), checked.sheet())
        print(f"what is marked  {sheet}", file=sys.stderr)
    if checked.problems:
        sys.exit(EXIT_BAD_INPUT)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the material and the run.")] = Path("refine-demo"),
    verbose: Verbose = False,
) -> None:
    """Refine damaged details of four real photos with the bundled model: no GPU, no server, no account."""
    print("Damaging details of four real photos, then refining them with the bundled model 'tiny' on this machine.")
    from flows.cli.demo import describe, run_demo

    print(describe(run_demo(out, verbose)))


if __name__ == "__main__":
    main()
