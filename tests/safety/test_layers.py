"""Every module is in a layer, so that no import can run back up unnoticed."""

import ast
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.support import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = [name.strip() for layer in CONTRACTS[0]["layers"] for name in layer.split("|")]
MODULES = sorted([*(ROOT / "refine_ops").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_is_in_a_layer_or_only_holds_layers_and_imports_nothing(path: Path) -> None:
    module = dotted(path)
    if any(within(module, layer) for layer in LAYERS):
        return
    assert any(within(layer, module) for layer in LAYERS), f"{module} is in no layer of pyproject's first contract"
    imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not imports, f"{module} holds layers and is in none itself: what it imports, nobody checks"


def test_no_folder_holds_more_modules_than_one_can_look_over() -> None:
    modules = Counter(path.parent for path in MODULES if path.name not in ("__init__.py", "__main__.py"))
    assert {str(folder): count for folder, count in modules.items() if count > 15} == {}


def test_every_layer_is_there() -> None:
    known = {dotted(path) for path in MODULES}
    assert set(LAYERS) <= known, "a layer that names no module checks nothing"
