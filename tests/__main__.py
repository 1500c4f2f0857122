"""Everything that must hold, in one command: format, lint, types, import contracts, tests.

python -m tests                  all of it
python -m tests quick            without what starts a process, a server or a browser, or trains; with fewer examples
python -m tests PATH ...         the same checks, and the tests of these paths alone
python -m tests [quick] [PATH ...] [pytest's options]
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKS = (
    ("format", ["ruff", "format", "--check", "--quiet", "."]),
    ("lint", ["ruff", "check", "--quiet", "."]),
    ("types", ["mypy"]),
    ("import contracts", ["lint-imports", "--no-cache"]),
)
QUICK = ["-m", "not slow and not gpu and not processes and not long"]


def main(arguments: list[str]) -> int:
    """0 if everything holds; what failed is named last."""
    started = time.monotonic()
    quick = arguments[:1] == ["quick"]
    options = [*QUICK, *arguments[1:]] if quick else arguments
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "REFINE_OPS_TESTS": "quick" if quick else "all"}
    # Beside the tests: one after the other, before them, the checks leave all cores but one idle.
    with ThreadPoolExecutor(1) as beside:
        checks = beside.submit(lambda: [name for name, command in CHECKS if not _check(name, command)])
        code = subprocess.call(_pytest(options), cwd=ROOT, env=environment)
        failed = checks.result() + (["tests"] if code else [])
    print(f"{'FAILED: ' + ', '.join(failed) if failed else 'everything holds'} ({time.monotonic() - started:.0f} s)")
    return 1 if failed else 0


def _check(name: str, command: list[str]) -> bool:
    started = time.monotonic()
    tool = Path(sys.executable).parent / command[0]
    done = subprocess.run([str(tool), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    said = "" if done.returncode == 0 else done.stdout + done.stderr
    verdict = "FAILED" if done.returncode else "ok"
    print(f"\n{said}{name}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
    return done.returncode == 0


def _pytest(options: list[str]) -> list[str]:
    """A few modules are done sooner in one process than two have started."""
    few = [option for option in options if option.split("::")[0].endswith(".py")]
    workers = 0 if few else min(4, os.cpu_count() or 1)
    return [
        *(sys.executable, "-m", "pytest", "-n", str(workers), "--dist", "loadfile", "--durations", "15"),
        *options,
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
