"""What the README and the chapters promise: links lead somewhere, commands exist, the front page stays short."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli.main import app

ROOT = Path(__file__).parents[1]
CHAPTERS = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md")), *sorted(ROOT.glob("refine_ops/*/README.md"))]
IDS = [str(path.relative_to(ROOT)) for path in CHAPTERS]


@pytest.mark.parametrize("path", CHAPTERS, ids=IDS)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{target} in {path}"
        if anchor:
            assert anchor in {_anchor(line) for line in found.read_text().splitlines() if line.startswith("#")}, target


@pytest.mark.parametrize("path", CHAPTERS, ids=IDS)
def test_every_file_named_is_there(path: Path) -> None:
    """In code: `tests/x/test_y.py` from the root, `formats/exif.py` from the chapter's folder or below the package."""
    sources = {
        p.relative_to(ROOT).as_posix() for d in ("flows", "refine_ops", "tests") for p in (ROOT / d).rglob("*.py")
    }
    for name in re.findall(r"`([\w./-]+\.py)`", path.read_text()):
        assert any(s == name or s.endswith(f"/{name}") for s in sources), f"{name} in {path}"


@pytest.mark.parametrize("path", CHAPTERS, ids=IDS)
def test_every_command_shown_exists_with_its_options(path: Path) -> None:
    for words in _commands(path.read_text()):
        command: Any = typer.main.get_command(app)
        rest = list(words)
        while (known := getattr(command, "commands", None)) and rest and not rest[0].startswith("-"):
            if rest[0] not in known and command.name == "eval":
                rest.insert(0, "run")
            assert rest[0] in known, f"refine-ops {' '.join(words)} in {path}"
            command = known[rest.pop(0)]
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        used = [w.split("=")[0] for w in rest if re.match(r"--?[a-z]", w)]
        assert set(used) <= options, f"refine-ops {' '.join(words)} in {path}"


def test_the_front_page_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def _anchor(heading: str) -> str:
    text = re.sub(r"[^\w\s-]", "", heading.lstrip("#").strip().lower())
    return text.replace(" ", "-")


def _commands(text: str) -> Iterator[list[str]]:
    """`refine-ops ...` at the start of a line of a shell block, or alone in a code span."""
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`(refine-ops [^`]+)`", text)
    for line in [*lines, *spans]:
        found = re.search(r"(?:^|&& |; )(?:\S*/)?refine-ops (.*)", line)
        if found:
            try:
                yield shlex.split(re.split(r" [&|;]|\.\.\.", found[1])[0], comments=True)
            except ValueError:
                continue
