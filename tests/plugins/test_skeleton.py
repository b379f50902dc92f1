"""`lapflow components new`: of four kinds a distribution that installs, keeps its contract and trains as it
was written; for the others an error that says where to begin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lapflow.cli import main
from lapflow.config.schema import component_kinds
from lapflow.core.errors import ConfigError
from lapflow.plugins.conformance import KITS
from lapflow.plugins.kinds import KINDS
from lapflow.plugins.skeleton import write_skeleton
from lapflow.plugins.skeletons import SKELETONS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("skeletons")

SETTINGS = [f"{'.'.join(path)}=try-{kind}" for path, kind in component_kinds().items() if kind in SKELETONS]


WORK = """
import contextlib, io, json, sys
import pytest
from lapflow.cli import main
from lapflow.plugins.registry import config_model


def said(command, *arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            code = command(list(arguments))
        except SystemExit as end:
            code = end.code
    return int(code or 0), out.getvalue()


kinds, settings, tests = json.loads(sys.argv[1])
found = {
    "tests": said(pytest.main, "-q", "-p", "no:cacheprovider", *tests),
    "list": said(main, "components"),
    "options": {
        kind: [
            [field.description, field.is_required()]
            for field in config_model(kind, f"try-{kind}").model_fields.values()
        ]
        for kind in kinds
    },
    "train": said(main, "train", "lapflow-digits", *settings, "--out", "run"),
    "sample": said(main, "sample", "run", "--num", "2", "--device", "cpu"),
}
print(json.dumps(found))
"""
"""All that is done where the new distributions are installed, in one process."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new distribution of every kind, all installed in its `site`."""
    folder = tmp_path_factory.mktemp("workshop")
    made = [folder / f"lapflow-try-{kind}" for kind in SKELETONS]
    for kind, path in zip(SKELETONS, made, strict=True):
        with pytest.raises(SystemExit) as end:
            main(["components", "new", f"try-{kind}", "--kind", kind, "--out", str(path)])
        assert end.value.code == 0
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", *made]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module")
def found(workshop: Path) -> dict[str, Any]:
    """What `WORK` says of them."""
    small = ["training.steps=2", "training.batch_size=8", "training.warmup_steps=0"]
    small += ["sampling.solver.steps=2", *SETTINGS]
    tests = [str(folder / "tests") for folder in sorted(workshop.glob("lapflow-*"))]
    environment = {**os.environ, "PYTHONPATH": f"{workshop / 'site'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORK, json.dumps([SKELETONS, small, tests])]
    done = subprocess.run(command, cwd=workshop, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_every_skeleton_passes_as_it_is_written(found: dict[str, Any]) -> None:
    code, said = found["tests"]
    assert code == 0, said
    assert "skipped" not in said


def test_every_skeleton_is_listed_with_an_option_that_says_what_it_is(found: dict[str, Any]) -> None:
    rows = [line.split() for line in found["list"][1].splitlines() if "lapflow-try-" in line]
    assert {(row[0], row[1], row[-1]) for row in rows} == {(kind, f"try-{kind}", "ok") for kind in SKELETONS}
    for kind, options in found["options"].items():
        assert options, kind
        assert all(description and not required for description, required in options), kind


def test_all_of_them_train_and_sample_in_one_composition(workshop: Path, found: dict[str, Any]) -> None:
    assert found["train"][0] == found["sample"][0] == 0, (found["train"], found["sample"])
    assert (workshop / "run" / "samples" / "grid.png").is_file()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(SKELETONS)))
def test_a_kind_without_a_skeleton_names_its_contract_and_its_kit(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no skeleton") as error:
        write_skeleton(kind, "mine", tmp_path / "new", kind)
    assert str(error.value.expected) == "one of: backbone, dataset, objective, solver"
    assert KINDS[kind].contract in str(error.value)
    assert f"conformance.{KITS[kind].__name__};" in str(error.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["", "Mine", "my_solver", "-x", "x-", "a--b", "2nd", "ünder", "a b", "../up", "x" * 51, "a\n"]
)
def test_a_name_that_is_not_valid_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be a component's name"):
        write_skeleton("solver", name, tmp_path / "new", "sampling.solver")
    assert not any(tmp_path.iterdir())


def test_the_nearest_valid_name_is_offered(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        write_skeleton("solver", "My_Solver", tmp_path / "new", "sampling.solver")
    assert error.value.remedy == "take my-solver"


def test_a_name_in_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="solver of this name already") as error:
        write_skeleton("solver", "heun", tmp_path / "new", "sampling.solver")
    assert error.value.got == "heun of lapflow"
    assert not any(tmp_path.iterdir())
    write_skeleton("objective", "heun", tmp_path / "new", "objective")  # another kind: no clash


def test_an_unknown_kind_is_refused_with_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["components", "new", "mine", "--kind", "solvr", "--out", str(tmp_path / "new")])
    assert end.value.code == 2
    assert "'solver'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["folder", "file", "dangling link"])
def test_what_exists_is_left_alone(what: str, tmp_path: Path) -> None:
    out = tmp_path / "new"
    if what == "folder":
        out.mkdir()
    elif what == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="exists already"):
        write_skeleton("solver", "mine", out, "sampling.solver")
    assert list(tmp_path.iterdir()) == [out]
    assert what != "folder" or not any(out.iterdir())


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, left = Path.write_text, [3]

    def full(self: Path, *arguments: object, **named: object) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return write(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_skeleton("solver", "mine", tmp_path / "new", "sampling.solver")
    assert not any(tmp_path.iterdir())
