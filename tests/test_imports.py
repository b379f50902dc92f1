"""Imports go one way: down the list of the house."""

import ast
from pathlib import Path

import pytest

import lapflow

ROOT = Path(lapflow.__file__).parent
LAYERS = ["cli", "demo", "hub", "evaluation", "sampling", "training", "config", "recipes"]
PILLARS = {"pyramids", "flows", "models", "solvers", "backends", "data", "objectives", "plugins"}
# A network needs a kernel and a kernel may be a plugin; both stand lower in the house. See docs/decisions.md.
ALSO = {"models": {"backends"}, "backends": {"plugins"}}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        names |= {m.split(".")[1] for m in modules if m and m.startswith("lapflow.")}
    return names


def allowed(package: str) -> set[str]:
    if package == "core":
        return {"core"}
    if package in PILLARS:
        return {"core", package} | ALSO.get(package, set())
    return {"core", *PILLARS, *LAYERS[LAYERS.index(package) :]}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*/*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    wrong = imported(path) - allowed(package)
    assert not wrong, f"{package} must not import {', '.join(sorted(wrong))}"


def test_every_package_is_in_the_house():
    packages = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert packages == {"core", *PILLARS, *LAYERS}
