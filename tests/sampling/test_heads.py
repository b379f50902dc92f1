"""Heads beside `main`: guided where the network says so, given to solvers that ask, and said to be untried by
the oracle's checks."""

import pytest
import torch

from lapflow import register
from lapflow.cli import main
from lapflow.core.backbone import Backbone
from lapflow.core.condition import Condition, specs
from lapflow.plugins.registry import unregister
from lapflow.sampling.guidance import ClassifierFreeGuidance
from lapflow.sampling.sampler import Given, ModelField
from lapflow.solvers import Euler
from tests.support import images, make_flow


class ThreeHeads(Backbone):
    """Each head is the label, times another number."""

    heads = ("guided", "plain")
    guided = ("main", "guided")

    def __init__(self):
        super().__init__()
        self.condition = specs(3)
        self.unit = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, state, t, condition=None):
        y = condition.labels.to(self.unit.dtype)[:, None, None, None] * self.unit
        return {
            name: {k: n * y.expand_as(x) for k, x in state.items()}
            for n, name in enumerate(("main", *self.heads), start=1)
        }

    def multiply_adds(self, scales):
        return {}


def test_guidance_combines_the_heads_that_the_network_names():
    flow = make_flow(2)
    segment = flow.segments[-1]
    guide, condition = ClassifierFreeGuidance(scale=2.0), Condition.of(torch.tensor([0, 1]))
    model = ThreeHeads()
    field = ModelField(flow, segment, (1, 8, 8), model, Given(model, condition), guide)
    heads = field.predict(flow.decomposition.analyze(images(2, 1, 8, 8)), segment.sampling_start)
    # With labels c and the null class -1: u + 2 (c - u) = 2 c + 1, times the head's number.
    for name, want in (("main", [1.0, 3.0]), ("guided", [2.0, 6.0]), ("plain", [0.0, 3.0])):
        assert all(x[:, 0, 0, 0].tolist() == want for x in heads[name].values()), name


class Asks(Euler):
    heads = ("odds",)

    def solve(self, *arguments, **named):
        raise AssertionError("the oracle has no such head, so the solver is not run")


def test_a_solver_of_other_heads_is_not_tried_by_the_oracle(capsys):
    register(Asks, name="asks")
    try:
        for options in ([], ["--json"]):
            with pytest.raises(SystemExit) as end:
                main(["check", "lapflow-digits", "sampling.solver=asks", *options])
            out = capsys.readouterr().out
            assert end.value.code == 0
            assert (
                '"untried": [' if options else "The solver asks is not tried: no oracle states the head odds."
            ) in out
            assert "rk4, 200 steps" in out or options
    finally:
        unregister("solver", "asks")
