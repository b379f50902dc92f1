"""`lapflow components new`: of every kind a distribution that installs, keeps its contract and trains as it
was written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lapflow.cli import main
from lapflow.config.schema import component_kinds
from lapflow.core.errors import ConfigError
from lapflow.plugins.kinds import KINDS
from lapflow.plugins.skeleton import write_skeleton

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("skeletons")


def name_of(kind: str) -> str:
    return f"try-{kind}"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new distribution of every kind, all installed in its `site`."""
    folder = tmp_path_factory.mktemp("workshop")
    for kind in KINDS:
        main_without_exit(
            "components", "new", name_of(kind), "--kind", kind, "--out", folder / f"lapflow-{name_of(kind)}"
        )
    made = sorted(folder.glob("lapflow-*"))
    assert len(made) == len(KINDS)
    options = [
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--target",
        folder / "site",
    ]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *made], check=True)
    return folder


def main_without_exit(*arguments: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code == 0


def run(workshop: Path, *command: str) -> str:
    """The output of `python -m COMMAND` where the new distributions are installed."""
    environment = {**os.environ, "PYTHONPATH": f"{workshop / 'site'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=workshop, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_kind_passes_as_it_is_written(workshop: Path) -> None:
    tests = [str(folder / "tests") for folder in sorted(workshop.glob("lapflow-*"))]
    said = run(workshop, "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert "passed" in said
    assert "skipped" not in said


def test_every_kind_is_listed_with_an_option_that_says_what_it_is(workshop: Path) -> None:
    rows = [
        line.split()
        for line in run(workshop, "lapflow.cli", "components").splitlines()
        if "lapflow-try-" in line
    ]
    assert {(row[0], row[1], row[-1]) for row in rows} == {(kind, name_of(kind), "ok") for kind in KINDS}
    script = (
        "from lapflow.plugins.registry import config_model\n"
        f"for kind in {list(KINDS)!r}:\n"
        "    fields = config_model(kind, f'try-{kind}').model_fields\n"
        "    assert fields and all(f.description and not f.is_required() for f in fields.values()), kind\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{workshop / 'site'}:{ROOT}"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


def test_all_of_them_train_and_sample_in_one_composition(workshop: Path) -> None:
    settings = [f"{'.'.join(path)}={name_of(kind)}" for path, kind in component_kinds().items()]
    small = [
        "training.steps=2",
        "training.batch_size=8",
        "training.warmup_steps=0",
        "sampling.solver.steps=2",
    ]
    run(workshop, "lapflow.cli", "train", "lapflow-digits", *settings, *small, "--out", "run")
    run(workshop, "lapflow.cli", "sample", "run", "--num", "2", "--device", "cpu")
    assert (workshop / "run" / "samples" / "grid.png").is_file()


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
    write_skeleton("bridge", "heun", tmp_path / "new", "flow.bridge")  # another kind: no clash


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
