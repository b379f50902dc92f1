"""What the documents show is run: every Python block, every YAML block, every `lapflow` command, every link.

Commands run in a folder of their own, by the entry of the command line in this process (tests/cli asks that
it starts as a process); training is made tiny by overrides added here.
"""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lapflow.cli import main
from lapflow.config.loading import load_config
from tests.support import small_autoencoder

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")]
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
TINY = [
    "training.steps=2",
    "training.batch_size=8",
    "model.depth=1",
    "model.width=32",
    "model.heads=2",
    "training.warmup_steps=0",
]
HUB = "stabilityai/sd-vae-ft-mse"
"""The autoencoder of the documents: a small random one stands in for it."""
LONG = {
    "make demo",
    "make test",
    "pip install",
    "hf upload",
    "pre-commit install",
    "python -m build",
    "python -m tests.",
    "lapflow demo",
}
AFTER = {"diffusers.md"}
"""Documents whose Python uses what their commands have made: it runs after them, where they ran."""
TOOLS = {"ruff", "mypy", "pytest", "make"}
"""The developers' tools: each command is run as far as shows that it means something, without the time it
takes."""


def blocks(document, language):
    return [body for kind, body in BLOCK.findall(document.read_text()) if kind == language]


def commands(document):
    lines = [
        line[2:].split("  #")[0].strip()
        for body in blocks(document, "console")
        for line in body.splitlines()
        if line.startswith("$ ")
    ]
    return [line for line in lines if not any(line.startswith(long) for long in LONG)]


@pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if blocks(d, "python") and d.name not in AFTER],
    ids=lambda d: str(d.relative_to(ROOT)),
)
def test_python_blocks_run(document):
    run_python(document)


def run_python(document):
    space = {"__name__": "document"}
    for body in blocks(document, "python"):
        exec(compile(ast.parse(body), str(document), "exec"), space)


@pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if blocks(d, "yaml") or blocks(d, "toml")],
    ids=lambda d: str(d.relative_to(ROOT)),
)
def test_yaml_and_toml_blocks_load(document, tmp_path):
    for i, body in enumerate(blocks(document, "yaml")):
        assert yaml.safe_load(body)
        (tmp_path / f"{i}.yaml").write_text(body)
        load_config(tmp_path / f"{i}.yaml")
    for body in blocks(document, "toml"):
        assert tomllib.loads(body)


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if commands(d)], ids=lambda d: str(d.relative_to(ROOT))
)
def test_commands_run(document, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for body in blocks(document, "yaml"):
        if named := re.match(r"# (\S+\.yaml)", body):
            (tmp_path / named[1]).write_text(body)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(i).integers(0, 255, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    for file in tmp_path.glob("*.yaml"):
        if HUB in file.read_text():
            small_autoencoder(tmp_path / "autoencoder", latent_channels=4, block_out_channels=[4, 4, 4, 4])
            file.write_text(file.read_text().replace(HUB, str(tmp_path / "autoencoder")))
    for line in commands(document):
        words = shlex.split(line)
        if words[0] in TOOLS:
            assert_a_tool_runs(line)
            continue
        assert words[0] == "lapflow", f"{document.name} shows a command that this test does not know: {line}"
        if words[1] == "train":
            # What comes last wins: the document's own steps and sizes are replaced.
            words += [*TINY, *(["sampling.solver.steps=1"] if "solver" not in line else [])]
        if words[1] == "sample":
            words += ["--num", "4"]
        if words[1] == "evaluate":
            words += ["--num", "20"]
        assert_a_command_succeeds(words[1:], capsys)
    if document.name in AFTER:
        monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
        run_python(document)


def assert_a_command_succeeds(arguments, capsys):
    """As a process would: nothing is raised, and the exit code is 0."""
    code = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    assert not code, f"lapflow {shlex.join(arguments)}\n{said.out}\n{said.err}"


def assert_a_tool_runs(line):
    tool, *words = shlex.split(line)
    if tool == "make":
        command = ["make", "--dry-run", *words]
    elif tool == "mypy":  # what it says of this tree is asked by `make test` itself
        command = [sys.executable, "-m", "mypy", "--version", *words]
    elif tool == "pytest":
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *words]
    else:
        command = [sys.executable, "-m", tool, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if d.parent == ROOT / "docs"], ids=lambda d: d.name
)
def test_every_page_is_in_the_index(document):
    if document.name != "index.md":
        assert f"({document.name})" in (ROOT / "docs" / "index.md").read_text()


def test_every_component_file_named_in_the_docs_exists():
    for document in DOCUMENTS:
        for path in re.findall(r"`(core/\w+\.py)`", document.read_text()):
            assert (ROOT / "lapflow" / path).is_file(), f"{document.name} names {path}"
