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
    import lapflow.demo.serving

    assert lapflow.demo.serving.uvicorn


def tensorboard() -> None:
    from lapflow.training.events import summary_writer

    summary_writer()


CASES: dict[str, tuple[Callable[[], None], str]] = {
    "lapflow/models/codecs/autoencoder_kl.py": (autoencoder, "diffusers"),
    "lapflow/models/unet.py": (unet, "diffusers"),
    "lapflow/hub/needed.py": (pipeline, "diffusers"),
    "lapflow/data/digits.py": (digits, "demo"),
    "lapflow/data/glyphs.py": (glyphs, "demo"),
    "lapflow/evaluation/agreement.py": (agreement, "demo"),
    "lapflow/sampling/pictures.py": (picture, "demo"),
    "lapflow/demo/needed.py": (page, "demo"),
    "lapflow/pyramids/wavelet.py": (wavelet, "wavelets"),
    "lapflow/backends/engines/deepspeed.py": (deepspeed, "deepspeed"),
    "lapflow/backends/attention/flash.py": (flash, "flash"),
    "lapflow/backends/attention/xformers.py": (xformers, "xformers"),
    "lapflow/data/features/inception.py": (inception, "fidelity"),
    "lapflow/training/events.py": (tensorboard, "tensorboard"),
}
"""By the module with the import: what needs it, and its extra."""

DERIVED = {
    **dict.fromkeys(["lapflow.hub.needed", "lapflow.hub.model", "lapflow.hub.pipeline"], "diffusers"),
    **dict.fromkeys(["lapflow.demo.needed", "lapflow.demo.web", "lapflow.demo.serving"], "demo"),
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


def answer(script: str, folder: Path) -> Any:
    done = bare(f"print(json.dumps({script}))", folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_module_imports_or_names_its_extra(tmp_path: Path) -> None:
    failed = answer("t.import_all()", tmp_path)
    assert set(failed) == set(DERIVED)
    for name, (kind, text) in failed.items():
        assert kind == "BackendError", f"{name}: {kind}: {text}"
        assert f"pip install 'lapflow[{DERIVED[name]}]'" in text, f"{name}: {text}"


def test_what_needs_an_extra_names_it(tmp_path: Path) -> None:
    said = answer("t.need_all()", tmp_path)
    assert set(said) == set(CASES), "these did not need their package"
    for module, (kind, text) in said.items():
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
    assert found == set(CASES)


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


def command_all() -> list[tuple[int, str, bool]]:
    """Exit code, what stderr says, and whether a run was left, of each of `COMMANDS`, called in this process."""
    from lapflow.cli import main

    said = []
    for arguments, _ in COMMANDS:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                main([*arguments, *([] if arguments[0] == "demo" else ["--out", "run"])])
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        said.append((code, err.getvalue(), Path("run").exists()))
    return said


def test_the_command_says_so_before_it_leaves_anything(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 20 * i).save(tmp_path / "photos" / name / f"{i}.png")
    for (arguments, extra), (code, said, left) in zip(
        COMMANDS, answer("t.command_all()", tmp_path), strict=True
    ):
        assert code == 2, f"{arguments}: {said}"
        assert f"lapflow[{extra}]" in said
        assert "Traceback" not in said
        assert not left


def test_what_needs_no_extra_runs(tmp_path: Path) -> None:
    done = bare("from lapflow.cli import main\nmain(['components'])", tmp_path)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stdout.splitlines() if "broken" in line]
