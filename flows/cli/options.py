"""What all commands share: settings from a file, from `--set` and from options, and how errors end a command."""

import difflib
import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from refine_ops.config import RefineBatchConfig, RefineSettings, prefect_is_set_up, prepare_prefect
from refine_ops.errors import JobError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from flows.steps.summary import RunSummary

Config = TypeVar("Config", bound=BaseModel)
ConfigFile = Annotated[Path | None, typer.Option("--config", help="JSON or YAML file with the flow's settings.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting by its path, e.g. refine.paste.confine=region. Repeatable."),
]
SAMPLE: Final = 1000
"""Pictures that are opened unless others are asked for: a minute's work, and what is wrong with 0.3 % of a manifest is
among them 19 times in 20."""
Sample = Annotated[
    int, typer.Option("--sample", min=0, help="Open at most so many pictures, spread evenly; 0: all of them.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show more log lines, Prefect's among them.")]


def fail(message: str, code: int) -> NoReturn:
    """One message on stderr, and out."""
    print(f"refine-ops: {message}", file=sys.stderr)
    sys.exit(code)


def note_tiny(settings: RefineSettings) -> None:
    """Say once that the small bundled model is at work, and what it does not do."""
    if settings.model.model == "tiny":
        print(
            "NOTE: --model is 'tiny', the small bundled model that shows how the package works. It does not read "
            "prompts and is no match for photos that matter; for those: --model refineanything-2511-lightning-8 "
            "--allow-hub (58 GB, needs a GPU).",
            file=sys.stderr,
        )


def start_prefect(verbose: bool = False) -> None:
    """Quiet Prefect and start the temporary server that a flow without a real one reports to.

    Ctrl-C reaches every process of the terminal: a server that obeyed it would be gone before the flow could report its
    end, and the flow would wait for it for minutes. A process inherits its parent's blocked signals.
    """
    prepare_prefect(verbose)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            client.api_healthcheck()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def run_batch(config: RefineBatchConfig, verbose: bool) -> "RunSummary":
    """The flow `refine-batch` where a Prefect server would see it, else the same steps plainly in this process."""
    if prefect_is_set_up() or config.lanes == "work-pool":
        start_prefect(verbose)
        from flows.refine_batch import refine_batch

        return refine_batch(config)
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s | %(levelname)s | %(name)s - %(message)s", datefmt="%H:%M:%S")
    from flows.steps.batch import run_batch as run_here

    return run_here(config)


def load_config(model: type[Config], file: Path | None, settings: list[str] | None, given: dict[str, Any]) -> Config:
    """A flow's config from a file, then `--set`, then the named options that were given (dotted names)."""
    values: dict[str, Any] = _read_config(file) if file else {}
    for setting in settings or ():
        name, separator, text = setting.partition("=")
        if not separator:
            raise JobError(f"--set {setting!r}: expected name=value")
        _put(values, name, _value(text))
    for name, value in given.items():
        if value is not None:
            _put(values, name, value)
    try:
        return model.model_validate(values)
    except ValidationError as e:
        raise JobError("the settings are not valid:\n" + "\n".join(_problem(model, p) for p in e.errors())) from e


def _problem(model: type[BaseModel], problem: "ErrorDetails") -> str:
    """One line on one wrong setting; an unknown one is told what there is in its place."""
    path, said = [str(part) for part in problem["loc"]], problem["msg"]
    if problem["type"] == "missing":
        return f"  {'.'.join(path)}: not given, and there is no default; name it in the settings file or by its option"
    if problem["type"] == "extra_forbidden":
        known = _settings_at(model, path[:-1])
        # First the same name elsewhere: most settings lie deeper than a person remembers.
        close = [name for name in _paths_of(model) if name.rpartition(".")[2] == path[-1]]
        close = close or difflib.get_close_matches(path[-1], known, n=1)
        said = "no such setting" + (f", did you mean {close[0]!r}?" if close else "")
        said += f" (there are {', '.join(known)})" if known else ""
    said = said.removeprefix("Value error, ")
    return f"  {'.'.join(path)}: {said} (got {problem['input']!r})" if path else f"  {said}"


def _settings_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the settings at a path through nested models; none where the path leads through a union."""
    for part in path:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return sorted(model.model_fields)


def _paths_of(model: type[BaseModel]) -> Iterator[str]:
    """Dotted names of all settings, nested models followed, shallow ones first."""
    waiting: list[tuple[str, type[BaseModel]]] = [("", model)]
    for start, inside in waiting:
        for name, field in inside.model_fields.items():
            yield start + name
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                waiting.append((f"{start}{name}.", field.annotation))


def _read_config(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        said = e.strerror if isinstance(e, OSError) else f"neither JSON nor YAML: {e}"
        raise JobError(f"settings file {file}: {said}") from e
    if not isinstance(values, dict):
        raise JobError(f"settings file {file}: expected a mapping of settings, got {type(values).__name__}")
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise JobError(f"{name} cannot be set: {part} is set to {values!r}, which has no settings of its own")
    values[last] = value
