"""Imports go one way: no circle of files anywhere, and packages import down the list of the house alone."""

import ast
from pathlib import Path

import pytest

import lapflow

ROOT = Path(lapflow.__file__).parent
FILES = {
    ".".join(("lapflow", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
FACADE = "lapflow"
"""`import lapflow` names what it gives under TYPE_CHECKING and imports it when it is used: for users, and for
our own files no way to anything but the version."""

LAYERS = ["cli", "demo", "hub", "evaluation", "analysis", "sampling", "training", "config", "recipes"]
PILLARS = {
    "backends",
    "data",
    "features",
    "flows",
    "models",
    "objectives",
    "optimizers",
    "plugins",
    "pyramids",
    "schedules",
    "solvers",
}
BELOW = {"util", "core"}
ALSO = {"models": {"backends"}, "backends": {"plugins"}, "objectives": {"flows"}, "plugins": {"flows"}}
"""A network needs a kernel and a kernel may be a plugin; objectives and kits are given a flow. See
docs/decisions.md."""
FILES_ALSO = {
    # Errors are for every file of the house, and the contract of an objective names the training pair.
    "util": {"lapflow.core.errors"},
    "core": {"lapflow.flows.flow"},
}


def imports(name: str) -> set[str]:
    """The files of the house that a file imports, wherever in it, under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: relative import"
            module = node.module or ""
            found |= {f"{module}.{a.name}" if f"{module}.{a.name}" in FILES else module for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return {other for other in found if other in FILES and other != name}


GRAPH = {name: imports(name) for name in FILES}


def package(name: str) -> str:
    return name.split(".")[1]


def allowed(name: str) -> set[str]:
    if name == "util":
        return {"util"}
    if name == "core":
        return BELOW
    if name in PILLARS:
        return BELOW | {name} | ALSO.get(name, set())
    return BELOW | PILLARS | set(LAYERS[LAYERS.index(name) :])


def test_no_circle_of_files():
    left = {name: others - {FACADE} for name, others in GRAPH.items() if name != FACADE}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    # What a circle leads to is left too; what leads to none of the rest is not part of one.
    while last := left.keys() - {other for others in left.values() for other in others}:
        left = {name: others for name, others in left.items() if name not in last}
    assert not left, f"these files import each other: {', '.join(sorted(left))}"


@pytest.mark.parametrize("name", [name for name in FILES if name != FACADE])
def test_imports_go_one_way(name):
    own = package(name)
    wrong = {
        other
        for other in GRAPH[name] - {FACADE} - FILES_ALSO.get(own, set())
        if package(other) not in allowed(own)
    }
    assert not wrong, f"{name} must not import {', '.join(sorted(wrong))}"


def test_of_the_facade_only_the_version_is_imported():
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.ImportFrom) and node.module == FACADE:
                names = {alias.name for alias in node.names}
                assert all(n == "__version__" or f"{FACADE}.{n}" in FILES for n in names), (name, names)


def test_every_package_is_in_the_house():
    packages = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert packages == {*BELOW, *PILLARS, *LAYERS}
