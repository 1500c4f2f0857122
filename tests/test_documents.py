"""What the README and the chapters promise: links lead somewhere, what they name exists, the front page stays short."""

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from flows.cli.main import app
from refine_ops import refine
from tests.support import ROOT

CHAPTERS = [*sorted(ROOT.glob("[!.]*/README.md")), *sorted(ROOT.glob("refine_ops/*/README.md"))]
DOCUMENTS = [ROOT / "README.md", *CHAPTERS]
PLACES = "refine_ops|flows|tests|infra"
MADE = ("train.yaml", "report.html", "report/report.html", "tables.html", "gallery/index.html")
"""Files that a command writes, or its user."""


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


of_each = pytest.mark.parametrize("path", DOCUMENTS, ids=_name)


@of_each
def test_every_link_leads_somewhere(path: Path) -> None:
    assert list(_wrong_links(path.read_text(), path)) == []


@of_each
def test_everything_named_is_there(path: Path) -> None:
    assert list(_wrong_names(path.read_text(), path)) == []


@of_each
def test_every_command_shown_exists_with_its_options(path: Path) -> None:
    assert {c: why for c in shown_commands(path.read_text()) if (why := _wrong_command(c))} == {}


def test_the_call_that_is_shown_can_be_made() -> None:
    """`refine(...)` in the front page's Python takes the arguments that are given there."""
    shown = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    calls = [node for block in shown for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    calls = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "refine"]
    assert calls
    for call in calls:
        inspect.signature(refine).bind(*call.args, **{str(word.arg): word.value for word in call.keywords})


def test_the_front_page_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("path", CHAPTERS, ids=_name)
def test_chapters_open_with_what_a_reader_wants_and_end_with_how_to_add_one(path: Path) -> None:
    text = path.read_text()
    assert "| you want to | look at |" in text.partition("\n## ")[0]
    assert re.findall(r"^## (.*)$", _prose(text), flags=re.M)[-1].startswith("How to add a ")


def test_what_is_wrong_is_noticed() -> None:
    wrong = ["refine_ops/none", "#nowhere", "refine_ops/image/README.md#x"]
    assert list(_wrong_links(" ".join(f"[a]({link})" for link in wrong), ROOT / "README.md")) == wrong
    wrong = ["refine_ops/gone.py", "gone.py", "image/gone.yaml", "refine_ops.gone", "refine_ops.chain.gone"]
    wrong.append("tests/gone/")
    assert list(_wrong_names(" ".join(f"`{name}`" for name in wrong), ROOT / "README.md")) == wrong
    assert list(_wrong_names("`refine_ops.chain.refine_image` `opened.py` `prefect.yaml`", ROOT / "README.md")) == []
    assert _wrong_command("refine a.jsonl") == "no command 'refine'"
    assert _wrong_command("run a.jsonl --quickly") == "no option --quickly"
    assert _wrong_command("eval compare A B --method-a x") is None
    assert _wrong_command("eval --out results") is None
    shown = (
        "`refine-ops run X --out Y`\n```\n.venv/bin/refine-ops demo  # now\n```\n    refine-ops \\\n      starts R\n"
    )
    assert sorted(shown_commands(shown)) == ["demo", "run X --out Y", "starts R"]


def _prose(text: str) -> str:
    """Without fenced and indented blocks."""
    return re.sub(r"^ {4,}\S.*$", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M)


def _spans(text: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", _prose(text))]


def _anchors(text: str) -> set[str]:
    """The names by which headings are linked to."""
    headings = re.findall(r"^#+ (.*)$", _prose(text), flags=re.M)
    return {re.sub(r"[^\w\s-]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def _wrong_links(text: str, at: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(text)):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        found = at.parent / name if name else at
        if not found.exists() or (anchor and anchor not in _anchors(found.read_text() if name else text)):
            yield target


def _wrong_names(text: str, at: Path) -> Iterator[str]:
    """Files, folders and modules in code spans.

    `tests/x/test_y.py` from the root, `formats/exif.py` from the chapter's folder or below a package, `refine_ops.x.y`
    as Python imports it.
    """
    for span in _spans(text):
        for word in span.split():
            if re.fullmatch(rf"(?:{PLACES})/[\w./-]*", word):
                known = (ROOT / word).exists()
            elif re.fullmatch(r"[\w./-]*\w\.(?:py|js|css|html|ya?ml|toml)", word) and not word.startswith("/"):
                known = _is_file(word, at) or word in MADE
            elif re.fullmatch(rf"(?:{PLACES})(?:\.\w+)+", word):
                known = word == "refine_ops.json" or _is_importable(word)
            else:
                continue
            if not known:
                yield word


def _is_file(name: str, at: Path) -> bool:
    if (ROOT / name).is_file() or (at.parent / name).is_file():
        return True
    return any(str(found).endswith(f"/{name}") for place in PLACES.split("|") for found in _files(place))


def _files(place: str) -> list[Path]:
    return [path for path in (ROOT / place).rglob("*.*") if path.is_file()]


def _is_importable(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        here = ROOT.joinpath(*parts[:count])
        if here.is_dir() or here.with_suffix(".py").is_file():
            rest = parts[count:]
            return not rest or (len(rest) == 1 and hasattr(importlib.import_module(".".join(parts[:count])), rest[0]))
    return False


def shown_commands(text: str) -> list[str]:
    """What follows `refine-ops` in every block, fenced or indented, and in code spans; comments are taken off."""
    whole = text.replace("\\\n", " ")
    blocks = re.findall(r"^```.*?^```", whole, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^ {4,}(\S.*)$", whole, flags=re.M) + _spans(text)
    found = (re.search(r"(?:^|&& |; )\s*(?:\S*/)?refine-ops( .*)$", line) for line in lines)
    return [" ".join(re.split(r" +# | [&;]", match[1])[0].split()) for match in found if match]


def _wrong_command(words_as_typed: str) -> str | None:
    """What the command line would not know; `a | b` stands for each, brackets for what may be left out."""
    words = shlex.split(re.sub(r"\[|\]|\.\.\.", " ", words_as_typed).replace("|", " "))
    command: Any = typer.main.get_command(app)
    while (known := getattr(command, "commands", None)) and words and not words[0].startswith("-"):
        if words[0] not in known and command.name == "eval":
            words.insert(0, "run")
        if words[0] not in known:
            return f"no command {words[0]!r}"
        command = known[words.pop(0)]
    if command.name == "eval" and words:
        command = command.commands["run"]
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"-h", "--help"}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options]
    return f"no option {unknown[0]}" if unknown else None
