"""Everything that must hold, in one command: format, lint, types, import contracts, tests.

python -m tests [pytest arguments]
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKS = (
    ("format", ["ruff", "format", "--check", "--quiet", "."]),
    ("lint", ["ruff", "check", "--quiet", "."]),
    ("types", ["mypy"]),
    ("import contracts", ["lint-imports", "--no-cache"]),
)


def main() -> int:
    bin_folder = Path(sys.executable).parent
    failed = []
    for name, command in CHECKS:
        started = time.monotonic()
        code = subprocess.call([str(bin_folder / command[0]), *command[1:]], cwd=ROOT)
        print(f"{name}: {'ok' if code == 0 else 'FAILED'} ({time.monotonic() - started:.0f} s)", flush=True)
        if code:
            failed.append(name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = str(min(4, os.cpu_count() or 1))
    pytest = [sys.executable, "-m", "pytest", "-n", workers, "--dist", "loadfile", "--durations", "15", *sys.argv[1:]]
    if subprocess.call(pytest, cwd=ROOT, env=environment):
        failed.append("tests")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
