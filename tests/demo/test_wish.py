"""What a page may ask for, and the command that repeats it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from lapflow.core.errors import ConfigError
from lapflow.demo.capabilities import Capabilities
from lapflow.demo.draw_request import DrawRequest, read_draw_request, resolve
from tests.demo.builders import capabilities, pipeline

GOOD = {"class": "3", "guidance": 1.5, "solver": "heun", "steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def made():
    return capabilities()


def test_a_good_wish_is_resolved(made):
    drawing = resolve(read_draw_request(json.dumps(GOOD).encode()), made)
    assert drawing.condition.labels.tolist() == [3]
    assert drawing.solver.steps == 2
    assert drawing.guidance.scale == 1.5
    asked = "--class 3 --guidance 1.5 --solver heun --steps 2 --seed 7"
    assert drawing.command == f"lapflow sample 'runs/a run' --num 1 {asked} --checkpoint step-0000000"


def test_what_is_left_out_is_the_runs_own(made):
    drawing = resolve(read_draw_request(b'{"class": "3", "solver": "heun", "seed": 0}'), made)
    assert drawing.solver.steps == 10
    assert drawing.guidance.off
    assert (
        drawing.command
        == "lapflow sample 'runs/a run' --num 1 --class 3 --solver heun --seed 0 --checkpoint step-0000000"
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"guidance": -0.1}, "guidance"),
        ({"guidance": 20.5}, "guidance"),
        ({"guidance": "2"}, "guidance"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": float("inf")}, "guidance"),
        ({"guidance": [1, 2]}, "guidance"),
        ({"steps": 0}, "steps"),
        ({"steps": 501}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": [2, 2]}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"seed": None}, "seed"),
        ({"seed": "0"}, "seed"),
        ({"class": 3}, "class"),
        ({"class": "10"}, "class out of range"),
        ({"class": None}, "a class is needed"),
        ({"class": "../../etc/passwd"}, "unknown class"),
        ({"class": "x" * 201}, "class"),
        ({"class": "\ud800"}, "class"),
        ({"solver": "../heun"}, "solver"),
        ({"solver": "lapflow.solvers.heun:Heun"}, "solver"),
        ({"solver": "heun@lapflow"}, "solver"),
        ({"solver": {"name": "heun"}}, "solver"),
        ({"solver": "dopri5"}, "steps"),
        ({"checkpoint": "/etc/passwd"}, "checkpoint"),
        ({"out": "/tmp/x"}, "out"),
        ({"label": "3"}, "label"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_bad_fields_are_refused_by_name(made, change, named):
    with pytest.raises(ConfigError, match=named) as error:
        resolve(read_draw_request(json.dumps({**GOOD, **change}).encode()), made)
    assert error.value.expected, "and what would do is said"
    assert str(error.value).encode(), "it can be sent"


NO_REQUESTS = [b"", b"null", b"[]", b"3", b"{", b"\xff\xfe", b"[" * 4000, b'{"seed": ' + b"9" * 4000 + b"}"]


@pytest.mark.parametrize("body", NO_REQUESTS, ids=lambda body: ascii(body)[:20])
def test_what_is_no_request_is_refused(made, body):
    with pytest.raises(ConfigError, match="the request"):
        resolve(read_draw_request(body), made)


def test_a_run_without_classes_takes_none_and_no_guidance():
    bare = capabilities(classes=())
    assert resolve(DrawRequest(solver="heun", seed=0), bare).condition.labels is None
    with pytest.raises(ConfigError, match="no classes"):
        resolve(DrawRequest(**{"class": "3"}, solver="heun", seed=0), bare)
    with pytest.raises(ConfigError, match="guidance needs a condition"):
        resolve(DrawRequest(guidance=2.0, solver="heun", seed=0), bare)


def test_guidance_needs_a_trained_null_class():
    with pytest.raises(ConfigError, match="condition_dropout"):
        resolve(DrawRequest(**GOOD), capabilities("lapflow-digits", "training.condition_dropout=0"))


def test_the_command_survives_a_shell():
    nasty = ("a; rm -rf /", "it's", "-x", "$(id)", "")
    made = Capabilities.of(Path("a b;c"), pipeline(classes=nasty), {"--weights": "raw"})
    for name in nasty:
        words = shlex.split(resolve(DrawRequest(**{"class": name}, solver="euler", seed=1), made).command)
        assert words[:3] == ["lapflow", "sample", "a b;c"]
        assert words[words.index("--class") + 1] == name
        assert words[-2:] == ["--weights", "raw"]
