"""The example plugin, installed beside lapflow into a fresh environment, trains and samples by name: lapflow knows nothing of it."""

from __future__ import annotations

import json
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "lapflow-half-steps"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that sees this one's packages, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True, text=True
    )
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in sorted(here))
    (Path(purelib.stdout.strip()) / "outer.pth").write_text(lines)
    copy = folder / "source"  # building in place would leave build folders in the tree
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    install = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        copy,
    ]
    subprocess.run(install, check=True)
    return python


def lapflow(python: Path, *arguments: object) -> str:
    command = [python, "-c", "from lapflow.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_own_conformance_tests_pass(python: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    done = subprocess.run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_listed_with_its_distribution(python: Path) -> None:
    row = next(line for line in lapflow(python, "components", "decomposition").splitlines() if "half-steps" in line)
    assert "lapflow-half-steps 0.1.0" in row
    assert row.split()[-1] == "ok"
    assert "number of scales" in lapflow(python, "components", "show", "decomposition", "half-steps")


def test_it_is_checked_trained_and_sampled_by_name(python: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    composition = [
        "flow.decomposition={name: half-steps, levels: 3}",
        "flow.intervals.starts=[0, 0.3, 0.6]",
        "sampling.solver={name: ssprk3, steps: 2}",
    ]
    lapflow(python, "check", "lapflow-digits", *composition)
    small = ["model.depth=1", "model.width=16", "model.heads=2", "training.steps=2", "training.batch_size=8"]
    lapflow(python, "train", "lapflow-digits", *composition, *small, "--out", run)
    lapflow(python, "sample", run, "--num", 2)
    assert json.loads((run / "environment.json").read_text())["plugins"] == {"lapflow-half-steps": "0.1.0"}
    assert (run / "samples" / "grid.png").is_file()


def test_it_is_unknown_without_its_distribution() -> None:
    from lapflow.plugins import names

    assert "half-steps" not in names("decomposition")
