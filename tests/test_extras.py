"""Without the optional packages every module imports, and what needs one names the extra that brings it.

The optional packages are made impossible to import in a process of its own, so that this holds wherever the
tests run.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lapflow.cli.doctor import EXTRAS

ROOT = Path(__file__).parents[1]
BELOW = {"scipy"}
"""Optional for lapflow itself, but torchdiffeq needs it."""
HIDDEN = sorted({name for names in EXTRAS.values() for name in names} - BELOW)


def autoencoder() -> None:
    from lapflow.models import AutoencoderKLCodec

    AutoencoderKLCodec(path="nowhere", factor=8, channels=4).load()


def unet() -> None:
    from lapflow.models.unet import UNet
    from tests.support import single_scale

    UNet(single_scale().bands((1, 8, 8)), channels=[32], attention_levels=[])


def digits() -> None:
    from lapflow.plugins import create

    create("dataset", {"name": "digits"}).read("train", 0)


def moving_digits() -> None:
    from lapflow.data.moving_digits import classifier

    classifier()


def series() -> None:
    from lapflow.plugins import create

    create("dataset", {"name": "ecg"}).read("train", 0)


def glyphs() -> None:
    from lapflow.plugins import create

    create("dataset", {"name": "glyphs", "size": 16}).read("train", 0)


def agreement() -> None:
    from lapflow.evaluation.agreement import require_sklearn

    require_sklearn()


def picture() -> None:
    from lapflow.sampling.pictures import loss_curve

    loss_curve([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}], "never.png")


def pipeline() -> None:
    import lapflow.hub

    assert lapflow.hub.LapFlowPipeline is lapflow.LapFlowPipeline


def wavelet() -> None:
    from lapflow.plugins import create

    create("decomposition", {"name": "wavelet", "wavelet": "db2"})


def deepspeed() -> None:
    from lapflow.plugins import create

    create("engine", {"name": "deepspeed", "device": "cpu"}).start()


def _attend(name: str) -> None:
    import torch

    from lapflow.plugins import create

    backend, x = create("attention", name), torch.zeros(1, 1, 4, 8)
    backend.attend(x, x, x)


def flash() -> None:
    _attend("flash")


def xformers() -> None:
    _attend("xformers")


def inception() -> None:
    import hashlib
    import tempfile

    from lapflow.plugins import create

    with tempfile.NamedTemporaryFile() as file:
        digest = hashlib.sha256(Path(file.name).read_bytes()).hexdigest()
        create(
            "features", {"name": "inception", "path": file.name, "source": "torch-fidelity", "sha256": digest}
        ).load()


def page() -> None:
    import lapflow.demo.web

    assert lapflow.demo.web.uvicorn


def tensorboard() -> None:
    from lapflow.training.events import summary_writer

    summary_writer()


CASES: dict[str, tuple[Callable[[], None], str]] = {
    "lapflow/models/codecs.py": (autoencoder, "diffusers"),
    "lapflow/models/unet.py": (unet, "diffusers"),
    "lapflow/hub/needed.py": (pipeline, "diffusers"),
    "lapflow/data/digits.py": (digits, "demo"),
    "lapflow/data/glyphs.py": (glyphs, "demo"),
    "lapflow/data/moving_digits.py": (moving_digits, "demo"),
    "lapflow/data/series.py": (series, "wavelets"),
    "lapflow/evaluation/agreement.py": (agreement, "demo"),
    "lapflow/sampling/pictures.py": (picture, "demo"),
    "lapflow/demo/web.py": (page, "demo"),
    "lapflow/pyramids/wavelet.py": (wavelet, "wavelets"),
    "lapflow/backends/engines/deepspeed.py": (deepspeed, "deepspeed"),
    "lapflow/backends/attention.py#flash": (flash, "flash"),
    "lapflow/backends/attention.py#xformers": (xformers, "xformers"),
    "lapflow/features/inception.py": (inception, "fidelity"),
    "lapflow/training/events.py": (tensorboard, "tensorboard"),
}
"""By the module with the import (and `#package` where it imports two): what needs it, and its extra."""

DERIVED = {
    **dict.fromkeys(["lapflow.hub.needed", "lapflow.hub.model", "lapflow.hub.pipeline"], "diffusers"),
    "lapflow.demo.web": "demo",
}
"""Modules made of a package's classes, so that they do not import without it, and its extra."""


class Without:
    """A finder of modules that finds no optional package, as if it were not installed: `import` and
    `find_spec` say so alike."""

    def __init__(self, finder: Any, hidden: set[str]) -> None:
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

    def find_distributions(self, *context: Any) -> Any:
        """Entry points of what is installed: MkDocs finds its theme and its plugins by them."""
        return self.finder.find_distributions(*context) if hasattr(self.finder, "find_distributions") else ()


def hide(but: tuple[str, ...] = ()) -> None:
    """Hide the optional packages, or all of them but those of the extra that is installed."""
    hidden = set(HIDDEN) - set(but)
    assert not [name for name in sys.modules if name.partition(".")[0] in hidden], (
        "an optional package was there before it was hidden"
    )
    sys.meta_path[:] = [
        finder if not hasattr(finder, "find_spec") else Without(finder, hidden) for finder in sys.meta_path
    ]  # type: ignore[misc]


def import_all() -> dict[str, list[str]]:
    """{module: kind of error, text} of every module of lapflow that does not import."""
    import importlib

    failed = {}
    for path in sorted((ROOT / "lapflow").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not name.endswith("__main__"):
            try:
                importlib.import_module(name)
            except Exception as error:
                failed[name] = [type(error).__name__, str(error)]
    return failed


def need_all() -> dict[str, list[str]]:
    """{module: kind of error, text} of every case, after the modules imported."""
    said = {}
    for module, (need, _) in CASES.items():
        try:
            need()
        except Exception as error:
            said[module] = [type(error).__name__, str(error)]
    return said


def bare(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`script` in a process without the optional packages."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = f"import json\nfrom tests import test_extras as t\nt.hide()\n{script}"
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process without the optional packages found in all that is asked of it."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("a", "b"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 20 * i).save(folder / "photos" / name / f"{i}.png")
    asked = ("import_all", "need_all", "command_all", "components")
    done = bare(f"print(json.dumps({{name: getattr(t, name)() for name in {asked!r}}}))", folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_module_imports_or_names_its_extra(said: dict[str, Any]) -> None:
    failed = said["import_all"]
    assert set(failed) == set(DERIVED)
    for name, (kind, text) in failed.items():
        assert kind == "BackendError", f"{name}: {kind}: {text}"
        assert f"pip install 'lapflow[{DERIVED[name]}]'" in text, f"{name}: {text}"


def test_what_needs_an_extra_names_it(said: dict[str, Any]) -> None:
    needed = said["need_all"]
    assert set(needed) == set(CASES), "these did not need their package"
    for module, (kind, text) in needed.items():
        assert kind == "BackendError", f"{module}: {kind}: {text}"
        assert f"pip install 'lapflow[{CASES[module][1]}]'" in text, f"{module}: {text}"


def test_every_optional_import_has_a_case() -> None:
    found = set()
    for path in (ROOT / "lapflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            # torch's own module is there without TensorBoard, and imports it.
            if any(name.partition(".")[0] in HIDDEN or name == "torch.utils.tensorboard" for name in names):
                found.add(str(path.relative_to(ROOT)))
    assert found == {module.partition("#")[0] for module in CASES}


PHOTOS = "data={name: folder, root: photos, size: 8, channels: 1}"


COMMANDS: list[tuple[list[str], str]] = [
    (["train", "lapflow-digits"], "demo"),
    (["train", "lapflow-glyphs"], "demo"),
    (["demo", "run"], "demo"),
    (["train", "lapflow-digits", PHOTOS, "training.tensorboard=true"], "tensorboard"),
    (["train", "lapflow-digits", PHOTOS, "flow.decomposition={name: wavelet, wavelet: db2}"], "wavelets"),
    (["train", "lapflow-digits", PHOTOS, "engine=deepspeed"], "deepspeed"),
]
"""Commands, and the extra that each asks for."""


def call(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a command, in this process."""
    from lapflow.cli import main

    code: Any = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    return int(code or 0), out.getvalue(), err.getvalue()


def command_all() -> list[tuple[int, str, bool]]:
    """Exit code, errors, and whether a run was left, of each of `COMMANDS`."""
    said = []
    for arguments, _ in COMMANDS:
        code, _, err = call([*arguments, *([] if arguments[0] == "demo" else ["--out", "run"])])
        said.append((code, err, Path("run").exists()))
    return said


def components() -> tuple[int, str, str]:
    return call(["components"])


def test_the_command_says_so_before_it_leaves_anything(said: dict[str, Any]) -> None:
    for (arguments, extra), (code, err, left) in zip(COMMANDS, said["command_all"], strict=True):
        assert code == 2, f"{arguments}: {err}"
        assert f"lapflow[{extra}]" in err
        assert "Traceback" not in err
        assert not left


def test_what_needs_no_extra_runs(said: dict[str, Any]) -> None:
    code, out, err = said["components"]
    assert code == 0, err
    assert "euler" in out
    assert "broken" not in out
