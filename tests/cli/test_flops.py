"""`lapflow flops`: the arithmetic of a composition, as a person and as a program read them."""

import json

import pytest

from tests.cli.test_run_commands import call

__all__ = ["call"]

GUIDED = ["model.patch=1", "sampling.guidance.scale=2", "sampling.guidance.interval=[0.3,1]"]
SCREENS = [
    ["lapflow-celebahq256"],
    ["lapflow-k4-digits"],
    ["pyramidal-flow-celebahq256"],
    ["lapflow-digits", *GUIDED],
]


@pytest.mark.parametrize("arguments", SCREENS, ids=lambda a: " ".join(map(str, a)))
def test_a_screen_of_a_hundred_columns_holds_it(call, arguments):
    code, out, err = call("flops", *arguments)
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 100


def test_a_sample_with_a_fixed_step_solver(call):
    """20 evaluations a segment of Heun's 10 steps; guidance from t = .3 on doubles 29 of the 40."""
    code, out, _ = call("flops", "lapflow-digits", *GUIDED)
    assert code == 0
    row = next(line for line in out.splitlines() if "sample " in line and "│" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "sample",
        "40",
        "441.795",
        "29",
        "846.350",
    ]
    found = json.loads(call("flops", "lapflow-digits", *GUIDED, "--json")[1])
    assert [s["evaluations"] for s in found["segments"]] == [20, 20]
    assert (found["sample"], found["guided_sample"]) == pytest.approx((441.795e6, 846.350e6), abs=1e3)
    assert found["ratio_to_single_scale"] == pytest.approx(0.7465, abs=5e-5)


def test_an_adaptive_solver_is_said_not_to_know(call):
    _, out, _ = call("flops", "lapflow-celebahq256")
    assert "dopri5 chooses its steps" in out
    assert "60.433 G an evaluation on average" in out
    assert json.loads(call("flops", "lapflow-celebahq256", "--json")[1])["sample"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        (["lapflow-digitz"], "'lapflow-digits'"),
        (["lapflow-digits", "engine=horovod"], "no engine of this name"),
    ],
    ids=lambda a: " ".join(map(str, a)) if isinstance(a, list) else a,
)
def test_a_mistake_is_one_error(call, arguments, said):
    code, out, err = call("flops", *arguments)
    assert code == 2
    assert out == ""
    assert said in err
    assert "Traceback" not in err
