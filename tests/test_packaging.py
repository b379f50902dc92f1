"""What `python -m build` makes: everything that runs is inside, nothing else is in the wheel, and the
metadata hold."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import lapflow
from lapflow.cli.doctor import EXTRAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
)
pytestmark = pytest.mark.xdist_group("packaging")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it.

    Of a copy of the tree: setuptools leaves its work in the tree, and takes what an earlier build left there.
    """
    folder = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, folder / "tree", ignore=NOT_SOURCE)
    run("build", "--no-isolation", "--outdir", folder / "dist", folder / "tree")
    return folder / "dist"


def run(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(built / f"lapflow-{lapflow.__version__}-py3-none-any.whl")


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return Parser().parsestr(wheel.read(f"lapflow-{lapflow.__version__}.dist-info/METADATA").decode())


def package_files() -> set[str]:
    """Every file of the package in this tree."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "lapflow").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == package_files()
    some = {
        "lapflow/py.typed",
        "lapflow/recipes/lapflow-digits.yaml",
        "lapflow/plugins/skeletons/solver.py",
        "lapflow/demo/page.html",
    }
    assert some <= inside


def test_the_wheel_holds_the_licence_and_the_command(wheel: zipfile.ZipFile) -> None:
    info = f"lapflow-{lapflow.__version__}.dist-info"
    assert wheel.read(f"{info}/licenses/LICENSE").decode() == (ROOT / "LICENSE").read_text()
    assert "lapflow = lapflow.cli:program" in wheel.read(f"{info}/entry_points.txt").decode()


def test_the_sdist_is_the_whole_tree(built: Path) -> None:
    top = f"lapflow-{lapflow.__version__}"
    with tarfile.open(built / f"{top}.tar.gz") as archive:
        inside = {member.name.removeprefix(f"{top}/") for member in archive if member.isfile()}
    folders = ("lapflow", "tests", "docs", "examples", "benchmarks", ".ci")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    expected = {
        str(path.relative_to(ROOT))
        for path in [*paths, *(path for path in ROOT.iterdir() if path.suffix == ".md")]
    }
    expected |= {
        "LICENSE",
        "CITATION.cff",
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
        ".pre-commit-config.yaml",
    }
    made = re.compile(r"(^|/)(__pycache__|[^/]*\.egg-info|\.[a-z]+_cache)/|\.py[co]$")
    assert {name for name in expected if not made.search(name)} <= inside
    assert not [name for name in inside if made.search(name) and not name.startswith("lapflow.egg-info/")]


def test_twine_finds_nothing_to_say(built: Path) -> None:
    assert run("twine", "--no-color", "check", "--strict", *built.iterdir()).count("PASSED") == 2


def test_the_metadata_say_what_the_project_says(metadata: Message) -> None:
    assert metadata["Name"] == "lapflow"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    core = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert len(core) == len(PROJECT["dependencies"])


def test_there_is_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {PROJECT["version"], str(citation["version"])} == {lapflow.__version__}
    assert PROJECT["authors"] == citation["authors"]
    assert re.search(rf"^## \[?{re.escape(lapflow.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_doctor_knows_every_extra() -> None:
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - {"dev"}


def test_what_is_built_here_is_pinned() -> None:
    """Every requirement of every extra but those for a GPU has its tested version in constraints.txt."""
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    names = {
        re.match(r"[\w-]+", line)[0].lower().replace("_", "-")
        for line in needed
        if not line.startswith("lapflow[")
    }  # type: ignore[index]
    assert names - pinned == set()


def test_what_is_pinned_takes_the_oldest_python() -> None:
    """A pinned version that wants a newer Python than pyproject.toml says cannot be installed there, and
    `make test` with it."""
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    pinned = [
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    ]
    checked, refuse = 0, []
    for name, version in pinned:
        try:
            found = distribution(name)
        except PackageNotFoundError:  # a pin for another platform
            continue
        if found.version.partition("+")[0] == version:
            checked += 1
            if oldest not in SpecifierSet(found.metadata["Requires-Python"] or ""):
                refuse.append(name)
    assert checked > len(pinned) / 2, "this is not the environment of constraints.txt"
    assert not refuse
