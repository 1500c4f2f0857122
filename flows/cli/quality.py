"""Commands that look at results: `report`, `review`, `eval`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flows.cli.options import ConfigFile, SetOption, Verbose, load_config, start_prefect
from refine_ops.errors import JobError

review_app = typer.Typer(help="Act on what a person decided in a drift report.", no_args_is_help=True)


class _EvalGroup(TyperGroup):
    """`refine-ops eval CONFIG` is short for `refine-ops eval run CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        short = args and args[0] not in ("-h", "--help") and (args[0][0] in "-" or "." in args[0] or "/" in args[0])
        return super().parse_args(ctx, ["run", *args] if short else args)


eval_app = typer.Typer(
    cls=_EvalGroup, help="RefineEval: cases, metrics with intervals, comparisons.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(report)
    app.command()(calibrate)
    app.add_typer(review_app, name="review")
    app.add_typer(eval_app, name="eval")


def report(
    runs: Annotated[list[str] | None, typer.Argument(help="Run folders, local or s3://.")] = None,
    before: Annotated[str | None, typer.Option(help="Instead of runs: folder of source images.")] = None,
    after: Annotated[str | None, typer.Option(help="Folder of edited images with the same names.")] = None,
    regions: Annotated[str | None, typer.Option(help="JSONL of boxes and masks, or a folder of masks.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="A report folder: render its HTML again.")] = None,
    out: Annotated[str | None, typer.Option(help="Where the report goes; default: report/ in the first run.")] = None,
    trend: Annotated[str | None, typer.Option(help="Folder of run summaries: history and alarms.")] = None,
    nights: Annotated[int | None, typer.Option(help="Only the newest N nights of each run.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Folder of alexnet.safetensors: also measure LPIPS and quoted text.")
    ] = None,
    fail_on: Annotated[str | None, typer.Option(help="never, strict or alarm.")] = None,
    config: ConfigFile = None,
    set_: SetOption = None,
    verbose: Verbose = False,
) -> None:
    """Measure background, drift, seams and effect from the published bytes, as HTML (flow `drift-report`)."""
    from refine_ops.report.config import DriftReportConfig

    folders = None
    if before is not None or after is not None:
        if before is None or after is None:
            raise JobError("--before and --after go together: a folder of sources, and one of what became of them")
        folders = {"before": before, "after": after, "regions": regions}
    given = {
        "runs": tuple(runs) if runs else None,
        "folders": folders,
        "source": from_,
        "out": out,
        "trend.folder": trend,
        "nights": nights,
        "perceptual.weights": weights,
        "fail_on": fail_on,
    }
    settings = load_config(DriftReportConfig, config, set_, given)
    start_prefect(verbose)
    from flows.drift_report import drift_report

    print(drift_report(settings))


@review_app.command("apply")
def review_apply(
    decisions: Annotated[str, typer.Argument(help="decisions.json, exported from a report.")],
    run: Annotated[str, typer.Argument(help="The run folder it is about.")],
    rejected: Annotated[str, typer.Option(help="What becomes of rejected items: redo or exclude.")] = "redo",
) -> None:
    """Mark what a person decided: the next start of the run redoes what was rejected with another seed, or leaves it
    out; what was held and is approved it publishes as it is kept."""
    if rejected not in ("redo", "exclude"):
        raise typer.BadParameter(f"--rejected {rejected!r}: expected 'redo' or 'exclude'")
    from refine_ops.report.review import apply_decisions, read_decisions

    marks = apply_decisions(run, read_decisions(decisions), "redo" if rejected == "redo" else "exclude")
    counts = {action: sum(mark.action == action for mark in marks) for action in ("keep", "publish", "redo", "exclude")}
    print(
        f"{counts['keep']} kept, {counts['publish']} held ones to publish, {counts['redo']} to redo, "
        f"{counts['exclude']} excluded; run the same command again"
    )


@eval_app.command("run")
def eval_run(
    config: Annotated[Path | None, typer.Argument(help="JSON or YAML file with the flow's settings.")] = None,
    out: Annotated[str | None, typer.Option(help="Results folder, local or s3://; the same folder continues.")] = None,
    cases: Annotated[str | None, typer.Option(help="Folder of a case set, or 'mini'.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N cases.")] = None,
    set_: SetOption = None,
    verbose: Verbose = False,
) -> None:
    """Evaluate methods on cases: Tables 1-3 with intervals, a gallery (flow `refine-eval`)."""
    from refine_ops.eval.config import RefineEvalConfig

    settings = load_config(RefineEvalConfig, config, set_, {"out": out, "cases": cases, "limit": limit})
    start_prefect(verbose)
    from flows.refine_eval import refine_eval

    uri = refine_eval(settings)
    tables = Path(uri) / "tables.md"
    if tables.exists():
        print(tables.read_text())
    print(f"results  {uri}\ngallery  {uri}/gallery/index.html")


@eval_app.command("build-cases")
def eval_build_cases(
    out: Annotated[str | None, typer.Option(help="Where the case set is written.")] = None,
    annotations: Annotated[str | None, typer.Argument(help="Folder with annotations.jsonl, or 'mini'.")] = None,
    config: ConfigFile = None,
    set_: SetOption = None,
) -> None:
    """Make degraded inputs from clean, annotated images."""
    from refine_ops.eval.cases.build import build_cases
    from refine_ops.eval.config import BuildCasesConfig

    found = build_cases(load_config(BuildCasesConfig, config, set_, {"out": out, "annotations": annotations}))
    print(f"{found.uri}  {found.digest}")


def calibrate(
    config: ConfigFile = None,
    out: Annotated[str | None, typer.Option(help="Folder of gate.json, card.md and plot.svg.")] = None,
    cases: Annotated[str | None, typer.Option(help="A case set, or 'rendered'.")] = None,
    reviews: Annotated[list[str] | None, typer.Option(help="Run folder with review decisions; repeatable.")] = None,
    photos: Annotated[list[str] | None, typer.Option(help="Folder of photos for 'rendered'; repeatable.")] = None,
    set_: SetOption = None,
) -> None:
    """Fit a gate that publishes nothing worse, at a rate it can promise; exit 1 where the data cannot support one."""
    from refine_ops.eval.gates.config import CalibrateConfig
    from refine_ops.eval.gates.run import run_calibration

    given = {"out": out, "cases": cases, "reviews": reviews or None, "photos": photos or None}
    settings = load_config(CalibrateConfig, config, set_, given)
    made = run_calibration(settings)
    print((Path(settings.out) / "card.md").read_text())
    print(f"gate  {settings.out}/gate.json" if made.gate else f"no gate: {made.missing}")
    sys.exit(0 if made.gate else 1)


@eval_app.command("compare")
def eval_compare(
    a: Annotated[str, typer.Argument(help="Results folder.")],
    b: Annotated[str, typer.Argument(help="Results folder that must not be worse.")],
    method_a: Annotated[str | None, typer.Option(help="Method of A; default its first.")] = None,
    method_b: Annotated[str | None, typer.Option(help="Method of B; default its first.")] = None,
) -> None:
    """Compare B with A, input by input; exit 1 if B is significantly worse."""
    from refine_ops.eval.compare import compare

    found = compare(a, b, method_a=method_a, method_b=method_b)
    print(found.markdown)
    sys.exit(found.exit_code)


@eval_app.command("vae-crop")
def eval_vae_crop(
    out: Annotated[str, typer.Option(help="Folder of table.md, table.json and plot.svg.")] = "vae-crop",
    model: Annotated[str | None, typer.Option(help="'tiny', a folder in diffusers' layout, or a hub name.")] = None,
    allow_hub: Annotated[bool | None, typer.Option("--allow-hub")] = None,
    config: ConfigFile = None,
    set_: SetOption = None,
) -> None:
    """Reconstruct regions from the full image and from their crop, at one budget (the paper's Fig. 3)."""
    from refine_ops.eval.config import VaeCropConfig
    from refine_ops.eval.vae_crop import vae_crop

    vae_crop(load_config(VaeCropConfig, config, set_, {"out": out, "model": model, "allow_hub": allow_hub}))
    print((Path(out) / "table.md").read_text())
