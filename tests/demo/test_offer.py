"""What a run offers: the solvers that fit it and no others, and settings to begin with that can be drawn."""

from __future__ import annotations

from functools import partial

import pytest

from lapflow.config.loading import load_config
from lapflow.core.errors import ConfigError
from lapflow.demo.capabilities import MAX_STEPS, recipe_of
from lapflow.demo.draw_request import DrawRequest, resolve
from lapflow.demo.painter import paint
from lapflow.plugins.kinds import BUILTIN
from lapflow.plugins.registry import register, unregister
from lapflow.solvers import Euler
from tests.demo.builders import capabilities


def test_solvers_that_fit_are_offered_and_each_can_draw():
    made = capabilities()
    assert made.solvers[0] == "heun", "the run's own comes first"
    assert {"euler", "dopri5", "ddim", "heun"} <= set(made.solvers) <= set(BUILTIN["solver"])
    for entry in made.document()["solvers"]:
        told = []
        draw_request = DrawRequest(
            **{"class": "3"}, solver=entry["name"], steps=2 if entry["takes_steps"] else None, seed=1
        )
        paint(made, resolve(draw_request, made), told.append, lambda: False)
        assert told[-1]["event"] == "done", entry


class Unfit(Euler):
    def require(self, segments: int) -> None:
        raise ConfigError("never")


class Tokens(Euler):
    heads = ("probabilities",)


class Needy(Euler):
    def __init__(self, *, path: str, steps: int = 3) -> None:
        super().__init__(steps=steps)


class Fit(Euler):
    """As good as Euler's."""


def test_a_solver_that_does_not_fit_is_not_offered(request):
    """One that refuses the flow, one that needs a head that the network has not, one that needs an argument;
    and one that fits."""
    for cls in (Unfit, Tokens, Needy, Fit):
        register(cls, name=f"{cls.__name__}-of-a-test")
        request.addfinalizer(partial(unregister, "solver", f"{cls.__name__}-of-a-test"))
    assert [name for name in capabilities().solvers if name.endswith("-of-a-test")] == ["Fit-of-a-test"]


def test_a_solver_without_its_head_is_refused_by_sample_too():
    with pytest.raises(ConfigError, match="does not predict"):
        capabilities().pipeline.sample(1, solver=Tokens(steps=1))


def test_steps_are_of_solvers_that_take_them():
    solvers = {entry["name"]: entry for entry in capabilities().document()["solvers"]}
    assert solvers["heun"] == {"name": "heun", "takes_steps": True, "steps": 10}, "the run's own number"
    assert solvers["euler"]["steps"] == 20
    assert solvers["dopri5"] == {"name": "dopri5", "takes_steps": False, "steps": None}
    listed = {
        entry["name"]: entry
        for entry in capabilities("lapflow-digits", "sampling.solver.steps=[3,4]").document()["solvers"]
    }
    assert listed["heun"]["steps"] is None, (
        "a list of steps cannot stand in the field: left empty, it is the run's own"
    )
    many = {
        entry["name"]: entry
        for entry in capabilities("lapflow-digits", f"sampling.solver.steps={MAX_STEPS + 1}").document()[
            "solvers"
        ]
    }
    assert many["heun"]["steps"] is None


@pytest.mark.parametrize(
    ("overrides", "classes", "differs"),
    [
        ([], "0123456789", "guidance"),
        (["sampling.guidance.scale=3"], "0123456789", "guidance"),
        (["training.condition_dropout=0"], "0123456789", "steps"),
        ([], "", "steps"),
        (["sampling.solver=dopri5"], "", "seed"),
    ],
)
def test_the_panels_differ_in_one_thing_and_can_be_drawn(overrides, classes, differs):
    made = capabilities("lapflow-digits", *overrides, classes=tuple(classes))
    panels = made.document()["panels"]
    assert {key for key in panels["a"] if panels["a"][key] != panels["b"][key]} == {differs}
    assert (made.unguided is None) == (differs == "guidance")
    for panel in panels.values():
        guidance = panel["guidance"] if made.unguided is None else None
        assert resolve(DrawRequest(**{**panel, "guidance": guidance}), made).seed == panel["seed"]


def test_guidance_that_is_more_than_a_scale_is_left_to_the_run():
    assert (
        capabilities("lapflow-digits", "sampling.guidance.interval=[0.2,0.8]").document()["panels"]["a"][
            "guidance"
        ]
        is None
    )
    assert (
        capabilities("lapflow-digits", "sampling.guidance.scale=[1,2]").document()["panels"]["a"]["guidance"]
        is None
    )
    assert (
        capabilities("lapflow-digits", "sampling.guidance.scale=1.5").document()["panels"]["a"]["guidance"]
        == 1.5
    )


def test_the_title_is_the_recipe_or_the_folder():
    assert recipe_of(load_config("lapflow-k3-digits", ["training.steps=7"])) == "lapflow-k3-digits"
    assert recipe_of(load_config("lapflow-digits", ["model.width=32"])) is None
    assert capabilities().title == "a run"
    assert capabilities(small=[]).title == "lapflow-digits"
