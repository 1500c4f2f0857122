"""Two random editors with and without focus in one table: the paper's central comparison, on any model."""

from pathlib import Path
from typing import Any

import pytest

from refine_ops import storage
from refine_ops.config import RefineSettings
from refine_ops.eval.config import PipelineMethod, RefineEvalConfig, RefinerMethod
from refine_ops.eval.run import Evaluation, evaluate
from tests.support.editors import klein, kontext

BUDGET = 96 * 96


def methods(folders: dict[str, Path]) -> list[Any]:
    """Each editor on the whole picture, and on the focus crop at the same budget."""
    found: list[Any] = []
    for name, folder in folders.items():
        found.append(PipelineMethod(name=f"{name}, whole image", model=str(folder), steps=1, pixels=BUDGET))
        options = {
            "model": {"model": str(folder), "steps": 1, "reference": "as_given"},
            "focus": {"focus_pixels": BUDGET, "tiles": "none"},
        }
        found.append(RefinerMethod(name=f"{name}, focus", refine=RefineSettings.model_validate(options)))
    return found


def run(cases: str, out: Path, folders: dict[str, Path], limit: int | None) -> Evaluation:
    return evaluate(
        RefineEvalConfig(
            cases=cases, out=str(out), methods=tuple(methods(folders)), setting="free", limit=limit, resamples=200,
            gallery=1, metrics={"text": False},
        )
    )  # fmt: skip


def check(found: Evaluation, names: list[str], count: int) -> None:
    for name in names:
        whole = [v for _, v in found.results.values(f"{name}, whole image", "changed_outside_px").values()]
        focused = [v for _, v in found.results.values(f"{name}, focus", "changed_outside_px").values()]
        assert len(whole) == len(focused) == count
        assert min(whole) > 1000, "nothing pastes a whole image's answer"
        assert max(focused) == 0
    table = storage.read(storage.join(found.uri, "tables.md")).decode()
    assert all(f"{name}, {way}" in table for name in names for way in ("whole image", "focus"))


@pytest.mark.long
def test_two_random_editors_with_and_without_focus_stand_in_one_table(frozen: str, tmp_path: Path) -> None:
    folders = {"klein": klein(tmp_path / "klein"), "kontext": kontext(tmp_path / "kontext")}
    found = run(frozen, tmp_path / "out", folders, limit=1)
    check(found, list(folders), count=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_mini(tmp_path: Path) -> None:
    """All reference-free cases of RefineEval-mini. Last run: 27 November 2026, 0314e40, `pytest -s -n 0 -m slow
    tests/eval/test_editors_side_by_side.py`: passed in 354 s on two busy cores; 96 of 96 inputs changed outside where
    the whole image went in, 0 of 96 with focus; the table prints.
    """
    folders = {"klein": klein(tmp_path / "klein"), "kontext": kontext(tmp_path / "kontext")}
    found = run("mini", tmp_path / "out", folders, limit=None)
    check(found, list(folders), count=16 * 6)
    print(storage.read(storage.join(found.uri, "tables.md")).decode())
