"""What all commands share: settings from a file, from `--set` and from options, and how errors end a command."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import BaseModel

from refine_ops.errors import JobError

Config = TypeVar("Config", bound=BaseModel)
ConfigFile = Annotated[Path | None, typer.Option("--config", help="JSON or YAML file with the flow's settings.")]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting by its path, e.g. refine.paste.confine=region. Repeatable."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's own log lines.")]


def fail(message: str, code: int) -> NoReturn:
    """One message on stderr, and out."""
    print(f"refine-ops: {message}", file=sys.stderr)
    sys.exit(code)


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
    return model.model_validate(values)


def _read_config(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as e:
        raise JobError(f"--config {file}: {e}") from e
    if not isinstance(values, dict):
        raise JobError(f"--config {file}: expected a mapping of settings, got {type(values).__name__}")
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
    values[last] = value
