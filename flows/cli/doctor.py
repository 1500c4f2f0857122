"""`refine-ops doctor`: whether this machine is as a model needs it."""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refine_ops.config import ModelSettings
from refine_ops.errors import EXIT_BAD_INPUT, JobError

if TYPE_CHECKING:
    from refine_ops.model.doctor.checks import CheckResult


def doctor(
    model: Annotated[str, typer.Option("--model", "--preset", help="Preset, folder or hub name to examine.")] = "tiny",
    adapter: Annotated[list[str] | None, typer.Option(help="LoRA file or folder. Repeatable.")] = None,
    licence: Annotated[bool, typer.Option("--licence-accepted", help="As the setting `licence: accepted`.")] = False,
    run: Annotated[
        list[str] | None, typer.Option(help="Run folder whose measured times are shown. Repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the findings as JSON.")] = None,
    allow_hub: Annotated[bool, typer.Option("--allow-hub", help="Download the named hub model.")] = False,
) -> None:
    """Examine libraries, device, files, numerics: the cure for "colours shift on my machine". Exit 1 if one is off."""
    import torch

    from refine_ops import storage
    from refine_ops.model.doctor.doctor import diagnose

    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it warns of an empty list of modules, six times
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    accepted: Literal["accepted"] | None = "accepted" if licence else None
    settings = ModelSettings(model=model, adapters=tuple(adapter or ()), allow_hub=allow_hub, licence=accepted)
    diagnosis = diagnose(settings, device)
    diagnosis = replace(diagnosis, findings=(*diagnosis.findings, *_signing()))
    for finding in diagnosis.findings:
        print(f"{'ok ' if finding.ok else 'OFF'}  {finding.name}: {finding.found}")
        if not finding.ok:
            print(f"     {finding.remedy}")
    for folder in run or ():
        print(f"     {_measured_in(folder, model)}")
    if out is not None:
        storage.write(storage.resolve(str(out)), json.dumps(diagnosis.as_dict(), indent=1).encode())
    if not diagnosis.ok:
        sys.exit(EXIT_BAD_INPUT)


def _signing() -> Iterator["CheckResult"]:
    """Whether whom the environment names can sign; nothing where it names nobody."""
    from refine_ops import config
    from refine_ops.model.doctor.checks import CheckResult
    from refine_ops.provenance.rehearsal import rehearse

    if not any(config.signing()):
        return
    try:
        yield CheckResult("signing", True, rehearse())
    except JobError as error:
        yield CheckResult("signing", False, "nobody can sign here", str(error))


def _measured_in(folder: str, model: str) -> str:
    """What regions took with a model in an earlier run, in words."""
    from flows.cli.estimate import measured_of
    from refine_ops import storage

    known = measured_of(storage.resolve(folder), lambda settings: settings.get("model") == model)
    if known is None:
        return f"{folder}: nothing refined with {model}"
    return f"{folder}: {known.region_s:.2f} s of the model per region, measured on {known.regions:,} regions"
