"""The work of a sampler counted beforehand is the work it does."""

import pytest
import torch

from lapflow.analysis.flops import evaluation_times
from lapflow.config.building import build, build_flow, build_solver
from lapflow.config.loading import load_config, recipes
from lapflow.sampling.sampler import sample
from lapflow.solvers import AdamsBashforth2, Euler
from lapflow.solvers.adaptive import Dopri5

FIXED = [name for name in recipes() if name.endswith("-digits") and name != "lfm-digits"]


@pytest.mark.parametrize("name", FIXED)
def test_evaluations_are_those_of_the_real_sampler(name):
    narrow = [] if name == "ldm-digits" else ["model.width=24", "model.heads=2", "model.depth=1"]
    steps = 3 if "edify" in name else 5
    parts = build(load_config(name, [*narrow, f"sampling.solver.steps={steps}"]))
    work = []
    sample(
        parts.flow,
        parts.model,
        (2, *parts.shape),
        solver=parts.solver,
        generator=torch.Generator().manual_seed(0),
        statistics=work,
    )
    times = evaluation_times(parts.flow, parts.solver)
    assert [len(at) for at in times] == [w.evaluations for w in work]
    for segment, at in zip(parts.flow.segments, times, strict=True):
        assert all(segment.start <= t <= segment.stop for t in at)


def test_it_draws_from_a_generator_of_its_own():
    flow, solver = (make(load_config("sit-linear-digits")) for make in (build_flow, build_solver))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert [len(at) for at in evaluation_times(flow, solver)] == [250]
    assert torch.equal(torch.get_rng_state(), before)


def test_an_adaptive_solver_does_not_know():
    flow = build_flow(load_config("lapflow-k2-digits"))
    assert evaluation_times(flow, Dopri5()) is None
    for solver in (Euler, AdamsBashforth2):
        assert [len(at) for at in evaluation_times(flow, solver(steps=[3, 7]))] == [3, 7]
