"""The example plugins, installed beside lapflow into a fresh environment, train and sample by name: lapflow
knows nothing of them."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    folder.name: folder
    for folder in sorted((ROOT / "examples").iterdir())
    if (folder / "pyproject.toml").is_file()
}
pytestmark = pytest.mark.xdist_group("examples")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that sees this one's packages, so that nothing is downloaded."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in sorted(here))
    (Path(purelib.stdout.strip()) / "outer.pth").write_text(lines)
    copies = [
        folder / "source" / name for name in EXAMPLES
    ]  # building in place would leave build folders in the tree
    for copy, example in zip(copies, EXAMPLES.values(), strict=True):
        shutil.copytree(example, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
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
        *copies,
    ]
    subprocess.run(install, check=True)
    return python


COMMANDS = """
import contextlib, io, json, sys
from lapflow.cli import main
told = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main(words)
        except SystemExit as end:
            if end.code:
                raise
    told.append(out.getvalue())
print(json.dumps(told))
"""


def lapflow(python: Path, *commands: Sequence[object]) -> list[str]:
    """What each command prints, one after the other in one process: it takes longer to start than they do."""
    words = json.dumps([list(map(str, command)) for command in commands])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, "-c", COMMANDS, words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    told: list[str] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_their_own_tests_pass(python: Path, tmp_path: Path) -> None:
    for name, example in EXAMPLES.items():
        for path in (example / "tests", *example.glob("*.yaml")):
            copy = tmp_path / name / path.name
            shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *EXAMPLES]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_listed_with_its_distribution(python: Path) -> None:
    components, shown = lapflow(
        python, ["components", "decomposition"], ["components", "show", "decomposition", "half-steps"]
    )
    row = next(line for line in components.splitlines() if "half-steps" in line)
    assert "lapflow-half-steps 0.1.0" in row
    assert row.split()[-1] == "ok"
    assert "number of scales" in shown


def test_it_is_checked_trained_and_sampled_by_name(python: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    composition = [
        "flow.decomposition={name: half-steps, levels: 3}",
        "flow.intervals.starts=[0, 0.3, 0.6]",
        "sampling.solver={name: ssprk3, steps: 2}",
    ]
    small = [
        "model.depth=1",
        "model.width=16",
        "model.heads=2",
        "model.patch=1",
        "training.steps=2",
        "training.batch_size=8",
    ]
    lapflow(
        python,
        ["check", "lapflow-digits", *composition],
        ["train", "lapflow-digits", *composition, *small, "--out", run],
        ["sample", run, "--num", 2],
    )
    assert json.loads((run / "environment.json").read_text())["plugins"] == {"lapflow-half-steps": "0.1.0"}
    assert (run / "samples" / "grid.png").is_file()


SMALL = {"lapgan": ["model.width=8", "objective.width=8"], "varlap": ["model.width=16", "model.codes=8"]}


@pytest.mark.parametrize("name", SMALL)
def test_a_system_of_its_own_trains_samples_and_is_evaluated_by_its_config(
    name: str, python: Path, tmp_path: Path
) -> None:
    run, config = tmp_path / "run", EXAMPLES[name] / f"{name}-digits.yaml"
    short = ["training.steps=2", "training.batch_size=8", "training.warmup_steps=0"]
    lapflow(
        python,
        ["check", config],
        ["train", config, *SMALL[name], *short, "--out", run],
        ["sample", run, "--num", 2],
        ["evaluate", run, "--num", 20],
    )
    assert json.loads((run / "environment.json").read_text())["plugins"] == {f"lapflow-{name}": "0.1.0"}
    assert json.loads((run / "metrics.json").read_text())["frechet_ratio"] > 0


@pytest.mark.parametrize("name", SMALL)
def test_nothing_in_lapflow_names_it(name: str) -> None:
    assert not [
        path
        for path in (ROOT / "lapflow").rglob("*")
        if path.suffix in (".py", ".yaml") and name in path.read_text().lower()
    ]


def test_it_is_unknown_without_its_distribution() -> None:
    from lapflow.plugins import names

    assert "half-steps" not in names("decomposition")
    assert not {"lapgan", "varlap"} & set(names("backbone"))
