"""Commands that make models better: `build-dataset`, `train`, `ablate`, `adapters`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import SetOption, Verbose, load_config, start_prefect

adapters_app = typer.Typer(
    help="The adapter registry: versions, the current one, and the way back.", no_args_is_help=True
)
Registry = Annotated[str, typer.Option("--registry", help="Registry folder, local or s3://.")]
Version = Annotated[str, typer.Argument(help="A version's name, or 'current'.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("build-dataset")(build_dataset)
    app.command()(train)
    app.command()(ablate)
    app.add_typer(adapters_app, name="adapters")


def build_dataset(
    config: Annotated[Path | None, typer.Argument(help="JSON or YAML file with the flow's settings.")] = None,
    source: Annotated[str | None, typer.Option(help="'synthetic': rendered marks; needs nothing.")] = None,
    count: Annotated[int | None, typer.Option(help="Samples of the synthetic source.")] = None,
    out: Annotated[str | None, typer.Option(help="Dataset folder, local or s3://. The same folder resumes.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Family held out of this set. Repeatable.")] = None,
    set_: SetOption = None,
    verbose: Verbose = False,
) -> None:
    """Build training samples as Refine-30K was built (flow `build-dataset`)."""
    from refine_ops.data.config import BuildDatasetConfig

    given = {
        "out": out,
        "source.kind": source,
        "source.count": count,
        "workers": workers,
        "exclude": tuple(exclude) if exclude else None,
    }
    settings = load_config(BuildDatasetConfig, config, set_, given)
    start_prefect(verbose)
    from flows.build_dataset import build_dataset as flow

    statistics = flow(settings)
    print(f"{statistics.get('samples')} samples in {settings.out}; card, statistics and contact sheet lie beside them")


def train(
    config: Annotated[Path | None, typer.Argument(help="JSON or YAML file with the flow's settings.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Folder that build-dataset wrote.")] = None,
    out: Annotated[str | None, typer.Option(help="Run folder (local). The same folder resumes.")] = None,
    model: Annotated[str | None, typer.Option(help="Base model: preset, folder or hub name.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    registry: Annotated[str | None, typer.Option(help="Publish to this registry, and promote if better.")] = None,
    set_: SetOption = None,
    verbose: Verbose = False,
) -> None:
    """Train a LoRA with the Boundary Consistency Loss (flow `train-lora`)."""
    from refine_ops.train.config import TrainLoraConfig

    given = {"dataset": dataset, "out": out, "model.model": model, "run.steps": steps, "registry": registry}
    settings = load_config(TrainLoraConfig, config, set_, given)
    start_prefect(verbose)
    from flows.train_lora import train_lora

    trained = train_lora(settings)
    print(trained.result.adapter)
    if trained.promotion is not None:
        print(trained.promotion.decision.summary)


def ablate(
    config: Annotated[Path | None, typer.Argument(help="The same file that `train` takes.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Folder that build-dataset wrote.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of all runs (local). The same folder resumes.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of each training.")] = None,
    set_: SetOption = None,
    verbose: Verbose = False,
) -> None:
    """Train with, without focus and without boundary loss, and compare: Table 3 (flow `train-ablations`)."""
    from refine_ops.train.config import TrainLoraConfig

    settings = load_config(TrainLoraConfig, config, set_, {"dataset": dataset, "out": out, "run.steps": steps})
    start_prefect(verbose)
    from flows.train_lora import train_ablations

    done = train_ablations(settings)
    print(done.markdown)
    print(f"results  {done.uri}\ngallery  {done.uri}/gallery/index.html")


@adapters_app.command("list")
def adapters_list(registry: Registry) -> None:
    """All versions, the current one marked."""
    from refine_ops import adapters

    pointer = adapters.current(registry)
    for card in adapters.versions(registry):
        mark = "*" if pointer is not None and pointer.version == card.version else " "
        print(f"{mark} {card.version}  {time.strftime('%Y-%m-%d %H:%M', time.gmtime(card.created_at))}")


@adapters_app.command("show")
def adapters_show(registry: Registry, version: Version = "current") -> None:
    """A version's card: what it was trained on, its metrics, its fingerprint."""
    import json
    from dataclasses import asdict

    from refine_ops import adapters

    print(json.dumps(asdict(adapters.show(registry, version)), indent=1, default=str))


@adapters_app.command("promote")
def adapters_promote(version: Version, registry: Registry, reason: Annotated[str, typer.Option()] = "by hand") -> None:
    """Make a version current; runs that are under way keep theirs."""
    from refine_ops import adapters

    print(adapters.promote(registry, version, reason).version)


@adapters_app.command("rollback")
def adapters_rollback(registry: Registry, reason: Annotated[str, typer.Option()] = "by hand") -> None:
    """Make the version before the current one current again."""
    from refine_ops import adapters

    print(adapters.rollback(registry, reason).version)
