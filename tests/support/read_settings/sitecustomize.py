"""Notes which settings a program reads: put this folder on PYTHONPATH, and it is loaded in every process of a flow.

A leaf is named by its way from the flow's one parameter, so that a setting of equal name elsewhere does not count: what
a settings object holds gets its name when it is reached through that object, and a copy with changes (`model_copy`)
keeps the name of what it was copied from. What a copy was given in place of the user's value is not the user's: reading
it counts for nothing. Where a process makes settings of its own from a file, `ROOTS` says what they are. Dumping
settings (a record, a fingerprint) reads nothing, nor do their own checks, nor do other libraries.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

ROOTS: dict[str, str] = json.loads(os.environ.get("READ_SETTINGS_ROOTS", "{}"))
"""Class -> name, of what is made whole in a process: the flow's parameter itself is ''."""
OURS = tuple(str(Path(__file__).parents[3] / package) for package in ("refine_ops", "flows"))
FILE = os.environ.get("READ_SETTINGS_FILE")


def install() -> None:
    from pydantic import BaseModel

    from refine_ops.config import Settings

    names: dict[int, str] = {}
    kept: list[Any] = []  # so that no number is given twice
    seen: set[str] = set()
    replaced: dict[int, set[str]] = {}
    checking = threading.local()
    plain = BaseModel.__getattribute__
    copy = BaseModel.model_copy

    def name(value: Any, called: str) -> None:
        if id(value) not in names:
            names[id(value)] = called
            kept.append(value)

    def read(self: Any, field: str) -> Any:
        value = plain(self, field)
        if field.startswith("_") or field not in type(self).model_fields:
            return value
        own = names.get(id(self), ROOTS.get(type(self).__name__))
        by = sys._getframe(1).f_code.co_filename
        if (
            own is None
            or field in replaced.get(id(self), ())
            or getattr(checking, "depth", 0)
            or not by.startswith(OURS)
        ):
            return value
        called = f"{own}.{field}".lstrip(".")
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Settings):
                name(one, f"{called}[{type(one).__name__}]")
        if called not in seen:
            seen.add(called)
            with open(str(FILE), "a") as file:
                file.write(called + "\n")
        return value

    def copied(self: Any, **options: Any) -> Any:
        made = copy(self, **options)
        own = names.get(id(self), ROOTS.get(type(self).__name__))
        if own is not None:
            name(made, own)
            given = options.get("update") or {}
            new = {field for field in given if not isinstance(given[field], Settings)}
            replaced[id(made)] = replaced.get(id(self), set()) | new
        return made

    def unseen(check: Any) -> Any:
        def made(*arguments: Any, **options: Any) -> Any:
            checking.depth = getattr(checking, "depth", 0) + 1
            try:
                return check(*arguments, **options)
            finally:
                checking.depth -= 1

        return made

    Settings.__getattribute__ = read
    Settings.model_copy = copied
    Settings.__init__ = unseen(BaseModel.__init__)
    for check in ("model_validate", "model_validate_json"):
        setattr(Settings, check, classmethod(unseen(getattr(BaseModel, check).__func__)))


if FILE:
    install()
