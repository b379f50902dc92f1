"""The command line: help without torch, errors on one screen with exit code 2, config, components, doctor."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lapflow.cli import main
from lapflow.config.loading import load_config, resolved
from lapflow.plugins.kinds import BUILTIN


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_help_does_not_import_torch():
    script = (
        "import sys\nfrom lapflow.cli import main\nfor words in (['--help'], ['encode', '--help']):\n  "
        "  try:\n        main(words)\n"
    )
    script += "    except SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for command in (
        "encode",
        "train",
        "sample",
        "evaluate",
        "check",
        "flops",
        "config",
        "components",
        "doctor",
    ):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Needs the extra diffusers."),
        (["evaluate"], "evaluation.metrics=[frechet,kid]"),
        (["train"], "flow.intervals.starts=[0,0.2]"),
    ],
    ids=["all", "evaluate", "train"],
)
def test_help_is_whole(capsys, arguments, said):
    """Rich takes [words] for markup and leaves them out."""
    assert said.replace(" ", "") in "".join(
        run(capsys, *arguments, "--help")[1].translate({ord("│"): None}).split()
    )


def test_a_user_s_mistake_is_one_screen_and_exit_code_2(capsys):
    code, out, err = run(capsys, "config", "show", "lapflow-digits", "training.stepz=3")
    assert code == 2
    assert out == ""
    assert "'steps'" in err
    assert "command line: training.stepz=3" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback():
    command = [
        sys.executable,
        "-c",
        "from lapflow.cli import main; main()",
        "config",
        "show",
        "nothing",
        "--debug",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_config_show_prints_the_resolved_config(capsys, tmp_path):
    code, out, _ = run(capsys, "config", "show", "lapflow-digits", "seed=3")
    assert code == 0
    (tmp_path / "shown.yaml").write_text(out)
    assert resolved(load_config(tmp_path / "shown.yaml")) == resolved(
        load_config("lapflow-digits", ["seed=3"])
    )


def test_config_schema_is_json(capsys):
    _, out, _ = run(capsys, "config", "schema")
    assert "base" in json.loads(out)["properties"]


def test_config_recipes(capsys):
    assert "lapflow-digits" in run(capsys, "config", "recipes")[1].split()


def test_components_lists_every_built_in(capsys):
    _, out, _ = run(capsys, "components")
    rows = [line.split() for line in out.splitlines()]
    for kind, found in BUILTIN.items():
        for name in found:
            assert [kind, name, "lapflow"] in [row[:3] for row in rows]
    _, out, _ = run(capsys, "components", "solver")
    assert "dopri5" in out
    assert "laplacian" not in out


def test_components_show_gives_types_defaults_and_meaning(capsys):
    _, out, _ = run(capsys, "components", "show", "decomposition", "laplacian")
    for word in (
        "levels",
        "integer >= 1",
        "2",
        "number of scales K",
        "lapflow.pyramids.laplacian:LaplacianPyramid",
    ):
        assert word in out
    code, _, err = run(capsys, "components", "show", "solver", "dopri6")
    assert code == 2
    assert "'dopri5'" in err


def test_doctor_gives_reasons(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    for word in ("python", "torch", "[flash]", "sdpa", "ready"):
        assert word in out
