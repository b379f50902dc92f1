"""Solvers: fitted order, statistics, never outside the segment, clear ends."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lapflow.core.errors import ConfigError, SolverError
from lapflow.core.field import Field
from lapflow.core.intervals import Segment
from lapflow.solvers import RK4, AdamsBashforth2, Euler, Heun, Midpoint, Tableau
from lapflow.solvers.adaptive import AdaptiveHeun, Bosh3, Dopri5, Dopri8, Fehlberg2

SEGMENT = Segment(0, 0.25, 0.75, {1: 0.0, 0: 0.25})
FIXED = [Euler, Midpoint, Heun, RK4]
ADAPTIVE = [Dopri5, Dopri8, Bosh3, Fehlberg2, AdaptiveHeun]


class Forced(Field):
    """dx/dt = -3 x + cos(5 t) on one scale, dy/dt = x y on the other: nonlinear and coupled."""

    def __init__(self) -> None:
        self.segment, self.times = SEGMENT, []

    def velocity(self, state, t):
        self.times.append(t)
        return {1: -3 * state[1] + math.cos(5 * t), 0: state[1].mean() * state[0]}


def start(dtype=torch.float64):
    return {1: torch.full((1, 1, 1, 1), 0.7, dtype=dtype), 0: torch.full((1, 1, 2, 2), 1.3, dtype=dtype)}


def truth():
    import scipy.integrate

    def f(t, y):
        return [-3 * y[0] + math.cos(5 * t), y[0] * y[1]]

    return scipy.integrate.solve_ivp(f, (0.25, 0.75), [0.7, 1.3], rtol=1e-13, atol=1e-14, method="DOP853").y[
        :, -1
    ]


def error(state):
    want = truth()
    return max(abs(state[1].item() - want[0]), abs(state[0][0, 0, 0, 0].item() - want[1]))


@pytest.mark.parametrize("solver", [*FIXED, AdamsBashforth2])
def test_fitted_order_is_the_methods_own(solver):
    counts = [8, 16, 32, 64]
    errors = [error(solver(steps=n).solve(Forced(), start(), SEGMENT)[0]) for n in counts]
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(solver(steps=1).order, abs=0.15)


@pytest.mark.parametrize("solver", FIXED)
def test_fixed_steps_count_and_observe(solver):
    field, seen = Forced(), []
    _, work = solver(steps=10).solve(field, start(), SEGMENT, observe=lambda t, state: seen.append(t))
    assert work.steps == 10
    assert work.evaluations == len(field.times) == 10 * len(solver.tableau.b)
    assert seen == SEGMENT.grid(10)[1:]
    assert min(field.times) == 0.25
    assert max(field.times) <= 0.75


def test_adams_bashforth_on_unequal_steps():
    """Exact where the velocity is linear in time, but for the start: its step is Euler's. After it, each step
    is the integral of the line through the last two velocities, found here by numpy's interpolation."""

    class Uneven(Forced):
        def grid(self, steps):
            return [0.25, 0.3, 0.45, 0.5, 0.75]

    field, seen, work = Uneven(), [(0.25, start())], AdamsBashforth2(steps=4)
    _, statistics = work.solve(field, start(), SEGMENT, observe=lambda t, x: seen.append((t, dict(x))))
    assert statistics.evaluations == 4
    assert field.times == [0.25, 0.3, 0.45, 0.5]
    times = [t for t, _ in seen]
    slopes = [{k: v.flatten()[0].item() for k, v in Forced().velocity(x, t).items()} for t, x in seen]
    for k in (1, 0):
        x = [state[k].flatten()[0].item() for _, state in seen]
        assert x[1] == pytest.approx(x[0] + 0.05 * slopes[0][k], rel=1e-13)
        for n in range(1, 4):
            line = np.polyfit(times[n - 1 : n + 1], [slopes[n - 1][k], slopes[n][k]], 1)
            area = np.polyval(np.polyint(line), times[n + 1]) - np.polyval(np.polyint(line), times[n])
            assert x[n + 1] == pytest.approx(x[n] + area, rel=1e-12)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_adaptive_methods_meet_their_tolerance_and_stay_inside(solver):
    field, seen = Forced(), []
    state, work = solver(rtol=1e-7, atol=1e-7).solve(
        field, start(), SEGMENT, observe=lambda t, s: seen.append(t)
    )
    assert error(state) < 1e-5
    assert work.evaluations == len(field.times)
    assert work.steps > 0
    assert 0.25 <= min(field.times) <= max(field.times) <= 0.75
    assert seen == sorted(seen)
    assert seen[-1] == 0.75


def test_tighter_tolerance_is_more_accurate_and_rejections_are_counted():
    loose, tight = (Dopri5(rtol=r, atol=r).solve(Forced(), start(), SEGMENT) for r in (1e-3, 1e-9))
    assert error(tight[0]) < 1e-8 < error(loose[0])
    assert tight[1].evaluations > loose[1].evaluations

    class Kink(Forced):
        def velocity(self, state, t):
            return {k: torch.full_like(x, 0.0 if t < 0.5 else 1e4) for k, x in state.items()}

    assert Dopri5().solve(Kink(), start(), SEGMENT)[1].rejected > 0


def test_adaptive_integration_of_bf16_states_is_done_in_float32():
    wide, _ = Dopri5().solve(Forced(), start(), SEGMENT)
    narrow, _ = Dopri5().solve(Forced(), start(torch.bfloat16), SEGMENT)
    assert narrow[1].dtype == torch.bfloat16
    assert narrow[1].float().item() == pytest.approx(wide[1].item(), rel=2**-7)


class Poisoned(Forced):
    def velocity(self, state, t):
        return {k: x * float("nan") if t > 0.5 else x for k, x in state.items()}


@pytest.mark.parametrize("solver", [Euler(steps=4), Dopri5()])
def test_a_field_that_is_not_finite_is_named(solver):
    with pytest.raises(SolverError, match=r"scale 1 is not finite"):
        solver.solve(Poisoned(), start(), SEGMENT)


def test_the_bound_on_the_work_is_an_error():
    with pytest.raises(SolverError, match="bound on the work") as caught:
        Dopri5(rtol=1e-12, atol=1e-12, max_evaluations=20).solve(Forced(), start(), SEGMENT)
    assert "max_evaluations" in str(caught.value)


def test_a_step_that_vanishes_is_an_error():
    class Wall(Forced):
        def velocity(self, state, t):
            return {k: torch.full_like(x, 0.0 if t < 0.5 else 1e30) for k, x in state.items()}

    with pytest.raises(SolverError):
        Dopri5(rtol=1e-12, atol=1e-12, max_evaluations=100_000).solve(Wall(), start(), SEGMENT)


def test_steps_may_differ_per_segment():
    assert Euler(steps=[3, 5]).solve(Forced(), start(), SEGMENT)[1].steps == 3
    for steps in ([3], [3, 5, 7]):
        with pytest.raises(ConfigError, match="every segment"):
            Euler(steps=steps).require(2)
    with pytest.raises(ConfigError, match="steps"):
        Euler(steps=0)


@pytest.mark.parametrize(
    ("rows", "weights", "order"),
    [
        (("",), "9/10", 1),
        (("", "1/2"), "1/2 1/2", 2),
        (("", "1/2", "0 1/2", "0 0 1"), "1/4 1/4 1/4 1/4", 4),
        (("", "1"), "1/2 1/2", 3),
    ],
)
def test_a_tableau_checks_itself(rows, weights, order):
    with pytest.raises(AssertionError, match="condition"):
        Tableau.explicit(*rows, weights=weights, order=order)
    with pytest.raises(AssertionError, match="sum of row"):
        Tableau(((), (Fraction(1, 2),)), (Fraction(0), Fraction(1)), (Fraction(0), Fraction(1)), 2)
