"""The registry, with distributions made for the test: metadata and modules in folders on `sys.path`."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import lapflow.plugins.registry as registry
from lapflow.cli import main
from lapflow.core.decomposition import Decomposition
from lapflow.core.errors import ConfigError, PluginError
from lapflow.plugins import create, get, names, register
from lapflow.plugins.kinds import BUILTIN, KINDS
from lapflow.plugins.registry import PluginWarning, config_model, distributions_used, sources, unregister
from lapflow.pyramids import Identity, LaplacianPyramid

GOOD = """
from typing import Annotated
from pydantic import Field
from lapflow.pyramids import Identity

class Mine(Identity):
    origin = {origin!r}
    def __init__(self, *, strength: Annotated[float, Field(gt=0, description="how strong")] = 1.0) -> None:
        self.strength = strength
"""


class World:
    """Makes distributions in `root`, which is on `sys.path`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def install(
        self, distribution: str, entries: dict[str, dict[str, str]], version: str = "1.2", **modules: str
    ) -> None:
        """A distribution with entry points {group: {name: path}} and modules {name: source}."""
        folder = self.root / f"{distribution.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        groups = [
            "\n".join([f"[{group}]", *(f"{name} = {path}" for name, path in found.items())])
            for group, found in entries.items()
        ]
        (folder / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
        for name, source in modules.items():
            (self.root / f"{name}.py").write_text(source)


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._warn_once.cache_clear()
    before = set(sys.modules)
    yield World(tmp_path)
    registry._installed.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]


@pytest.fixture
def mine(world):
    world.install(
        "lapflow-mine",
        {"lapflow.decompositions": {"mine": "plug_mine:Mine"}},
        plug_mine=GOOD.format(origin="mine"),
    )
    return world


def test_kinds_name_their_contract_and_every_built_in_loads():
    assert set(KINDS) == set(BUILTIN)
    for kind, found in BUILTIN.items():
        assert KINDS[kind].load_contract().kind == kind
        for name in found:
            assert issubclass(get(kind, name), KINDS[kind].load_contract())


def test_create_takes_a_name_or_a_spec():
    assert isinstance(create("decomposition", "identity"), Identity)
    made = create("decomposition", {"name": "laplacian", "levels": 3})
    assert isinstance(made, LaplacianPyramid)
    assert made.levels == 3


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("decomposition", "laplacain", ["no decomposition", "'laplacian'"]),
        ("decomposition", {"name": "laplacian", "level": 3}, ["level", "'levels'"]),
        ("decomposition", {"name": "block-dct", "levels": 3}, ["levels", "no keys"]),
        ("decomposition", {"levels": 3}, ["has no name", "laplacian"]),
        ("decompositon", "laplacian", ["no such kind", "'decomposition'"]),
    ],
)
def test_mistakes_are_named_with_the_nearest_right_thing(kind, spec, words):
    with pytest.raises(ConfigError) as error:
        create(kind, spec)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_listing_imports_nothing():
    script = (
        "import sys; import lapflow.plugins as p; p.names('solver'); p.names('backbone'); assert "
        "'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_plugin_is_found_by_name_and_imported_only_then(mine):
    assert "mine" in names("decomposition")
    assert [s.status for s in sources("decomposition") if s.source.name == "mine"] == ["ok"]
    assert "plug_mine" not in sys.modules
    made = create("decomposition", {"name": "mine", "strength": 2.0})
    assert made.config == {"strength": 2.0}
    assert set(config_model("decomposition", "mine").model_fields) == {"strength"}


def test_the_distributions_a_config_uses(mine):
    config = {
        "flow": {"decomposition": {"name": "mine"}, "path": {"name": "linear"}},
        "model": {"name": "mot-dit", "path": "x"},
        "seed": 0,
    }
    assert distributions_used(config) == {"lapflow-mine": "1.2"}


def test_a_broken_plugin_fails_only_when_named(mine):
    entries = {"lapflow.decompositions": {"broken": "plug_broken:Thing", "absent": "plug_mine:Nothing"}}
    mine.install("lapflow-broken", entries, version="0.3", plug_broken="import a_package_nobody_has")
    assert {"broken", "mine"} <= set(names("decomposition"))
    assert create("decomposition", "mine").levels == 1
    for name, cause in (("broken", "a_package_nobody_has"), ("absent", "Nothing")):
        with pytest.raises(PluginError) as error:
            get("decomposition", name)
        for word in ("lapflow-broken", "0.3", cause):
            assert word in str(error.value)
    listed = {s.source.name: s for s in sources("decomposition", load=True)}
    assert listed["broken"].status == "broken"
    assert "a_package_nobody_has" in listed["broken"].cause
    assert listed["mine"].status == "ok"


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("class Thing: pass", "a subclass of lapflow.core.decomposition.Decomposition"),
        ("Thing = 3", "a subclass of lapflow.core.decomposition.Decomposition"),
        (
            "from lapflow.flows import LinearPath as Thing",
            "a subclass of lapflow.core.decomposition.Decomposition",
        ),
        (
            "from lapflow.core.decomposition import Decomposition\nclass Thing(Decomposition):\n    levels "
            "= 1",
            "analyze, bands, synthesize",
        ),
    ],
)
def test_a_class_that_does_not_keep_the_contract_is_refused(world, source, word):
    world.install("lapflow-odd", {"lapflow.decompositions": {"odd": "plug_odd:Thing"}}, plug_odd=source)
    with pytest.raises(PluginError) as error:
        get("decomposition", "odd")
    assert word in str(error.value)
    assert "lapflow-odd 1.2" in str(error.value)


def test_a_built_in_wins_a_clash_with_one_warning(world):
    world.install(
        "lapflow-mine",
        {"lapflow.decompositions": {"laplacian": "plug_mine:Mine"}},
        plug_mine=GOOD.format(origin="mine"),
    )
    with pytest.warns(PluginWarning, match="laplacian@lapflow-mine"):
        assert get("decomposition", "laplacian") is LaplacianPyramid
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get("decomposition", "laplacian")
    assert get("decomposition", "laplacian@lapflow-mine").__name__ == "Mine"
    assert get("decomposition", "laplacian@Lapflow_Mine").__name__ == "Mine"
    assert [s.status for s in sources("decomposition") if s.source.name == "laplacian"] == ["ok", "shadowed"]


def test_two_plugins_of_one_name_must_be_told_apart(mine):
    mine.install(
        "lapflow-yours",
        {"lapflow.decompositions": {"mine": "plug_yours:Mine"}},
        plug_yours=GOOD.format(origin="yours"),
    )
    with pytest.raises(ConfigError) as error:
        get("decomposition", "mine")
    assert "mine@lapflow-mine" in str(error.value)
    assert "mine@lapflow-yours" in str(error.value)
    assert get("decomposition", "mine@lapflow-yours").origin == "yours"
    assert get("decomposition", "mine@lapflow-mine").origin == "mine"
    assert {s.status for s in sources("decomposition") if s.source.name == "mine"} == {"clash"}
    with pytest.raises(ConfigError, match="no installed distribution"):
        get("decomposition", "mine@lapflow-theirs")


def test_bad_neighbours_disturb_nobody(mine, tmp_path, capsys):
    """One plugin that cannot be imported, one that ends the interpreter, two of one name: the table says so,
    and all else works."""
    broken = {"lapflow.solvers": {"broken": "plug_broken:Thing", "leaves": "plug_leaves:Thing"}}
    mine.install(
        "lapflow-broken",
        broken,
        "0.3",
        plug_broken="import a_package_nobody_has",
        plug_leaves="import sys; sys.exit(7)",
    )
    mine.install(
        "lapflow-yours",
        {"lapflow.decompositions": {"mine": "plug_yours:Mine"}},
        plug_yours=GOOD.format(origin="yours"),
    )
    with pytest.raises(SystemExit) as end:
        main(["components"])
    assert end.value.code == 0
    rows = {
        (words[1], words[2]): line
        for line in capsys.readouterr().out.splitlines()
        if len(words := line.split()) > 2
    }
    assert (
        "broken: ModuleNotFoundError: No module named 'a_package_nobody_has'"
        in rows["broken", "lapflow-broken"]
    )
    assert "broken: SystemExit: 7" in rows["leaves", "lapflow-broken"]
    for theirs in ("lapflow-mine", "lapflow-yours"):
        assert f"clash: write mine@{theirs}" in rows["mine", theirs]
    assert rows["heun", "lapflow"].split()[-1] == "ok"
    small = [
        "training.steps=1",
        "training.batch_size=4",
        "model.depth=1",
        "model.width=16",
        "model.heads=2",
        "model.patch=1",
        "sampling.solver.steps=1",
    ]
    both = ["flow.decomposition=mine@lapflow-yours", "flow.intervals.starts=[0]", "training.warmup_steps=0"]
    with pytest.raises(SystemExit) as end:
        main(["train", "lapflow-digits", *small, *both, "--out", str(tmp_path / "run")])
    assert end.value.code == 0


def test_register_for_a_session():
    @register(name="twice")
    class Twice(Identity):
        """A test's own."""

    try:
        assert get("decomposition", "twice") is Twice
        again = register(type("Again", (Identity,), {}), name="twice")
        assert get("decomposition", "twice") is again
        assert distributions_used({"decomposition": {"name": "twice"}}) == {}
    finally:
        unregister("decomposition", "twice")
    assert "twice" not in names("decomposition")


def test_register_refuses_what_is_no_component():
    with pytest.raises(PluginError, match="is no component"):
        register(type("Nothing", (), {}), name="nothing")
    with pytest.raises(PluginError, match="does not keep its contract"):
        register(type("Half", (Decomposition,), {}), name="half")
    with pytest.raises(ConfigError, match="is a built-in"):
        register(type("Other", (Identity,), {}), name="laplacian")
