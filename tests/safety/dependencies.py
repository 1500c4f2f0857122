"""What is installed with the package, and under which licences; and whether a known vulnerability is among it.

python -m tests.safety.dependencies            # licences, as a Markdown table
python -m tests.safety.dependencies --audit    # also pip-audit over infra/constraints.txt, if it can reach its service
"""

import re
import subprocess
import sys
from collections import deque
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT

CONSTRAINTS = ROOT / "infra" / "constraints.txt"
AUDIT = ["pip-audit", "-r", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--progress-spinner", "off"]


def closure(extras: tuple[str, ...] = ("eval",)) -> list[str]:
    """Names of everything that installing the package with these extras installs, the package itself aside."""
    found: set[str] = set()
    queue = deque([Requirement(f"refine-ops[{','.join(extras)}]")])
    seen: set[tuple[str, str]] = set()
    while queue:
        wanted = queue.popleft()
        name = canonicalize_name(wanted.name)
        for extra in ("", *sorted(wanted.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                required = distribution(name).requires or []
            except PackageNotFoundError:
                continue  # for another platform, or an alternative that was not needed
            found.add(name)
            for text in required:
                requirement = Requirement(text)
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                    queue.append(requirement)
    return sorted(found - {"refine-ops"})


def licence(name: str) -> str:
    """As the distribution states it: the SPDX expression, else its classifiers, else the first line of its text."""
    metadata = distribution(name).metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classified = [c.split(" :: ")[-1] for c in metadata.get_all("Classifier", []) if c.startswith("License :: ")]
    stated = [c for c in classified if c != "OSI Approved"]
    if stated:
        return "; ".join(stated)
    text = (metadata.get("License") or "").strip()
    return text.splitlines()[0][:60] if text else "not stated"


def audit() -> str:
    """What pip-audit found, or why it could not look."""
    try:
        done = subprocess.run(AUDIT, capture_output=True, text=True, timeout=600)
    except FileNotFoundError:
        return "not audited: pip-audit is not installed"
    except subprocess.TimeoutExpired:
        return "not audited: no answer within ten minutes"
    if re.search(r"No known vulnerabilities|Found \d+ known", done.stdout + done.stderr):
        return (done.stdout + done.stderr).strip()
    return f"not audited: {(done.stderr or done.stdout).strip().splitlines()[-1:]}"


def table() -> str:
    rows = [f"| {name} | {distribution(name).version} | {licence(name)} |" for name in closure()]
    return "\n".join(["| package | version | licence |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    print(table())
    if "--audit" in sys.argv[1:]:
        print(f"\n{audit()}")
