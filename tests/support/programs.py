"""Programs that pip does not install: without one its tests are skipped, and the run's end says what to install."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable

import pytest

PACKAGES = {
    "chromium": "chromium",
    "djpeg": "libjpeg-turbo-progs",
    "jpegtran": "libjpeg-turbo-progs",
    "openssl": "openssl",
}
"""Debian's package by program."""
_NEEDS = "needs the program "


def program(name: str) -> str:
    """Its path. Where it is not installed the test is skipped; under `CI=true` it fails."""
    found = shutil.which(name)
    if found:
        return found
    message = f"{_NEEDS}{name}: apt-get install {PACKAGES[name]}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def left_out(reasons: Iterable[str]) -> str | None:
    """The closing line for the reasons of all skipped tests, if any was skipped for want of a program."""
    counts = Counter(name for reason in reasons for name in PACKAGES if f"{_NEEDS}{name}:" in reason)
    if not counts:
        return None
    parts = " and ".join(f"{count} that need {name}" for name, count in sorted(counts.items()))
    packages = dict.fromkeys(PACKAGES[name] for name in sorted(counts))
    return f"left out: {parts}; apt-get install {' '.join(packages)}"
