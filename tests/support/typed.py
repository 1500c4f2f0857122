"""A command of `refine-ops` typed in this process: what it prints and its exit code, without the seconds of a start."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from flows.cli.main import main


def typed(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """As from a process of its own; for commands that start no rank, as those end their process as they like."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["refine-ops", *arguments]):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())
