"""Fixed-step explicit Runge-Kutta solvers: one stepping rule, methods as tableaux."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.intervals import Segment
from lapflow.core.random import Generators
from lapflow.core.solver import Field, Observer, Solver, Statistics
from lapflow.core.state import State, map_state
from lapflow.solvers.steps import Steps, finite_grid, require_finite, require_steps, steps_in
from lapflow.solvers.tableau import Tableau


def rk_step(method: Tableau, velocity: Callable[[State, float], State], state: Mapping[int, Tensor], t: float, t_next: float) -> State:
    """One explicit step: k_i = v(t + c_i h, x + h sum_j a_ij k_j), x' = x + h sum_i b_i k_i."""
    h = t_next - t
    slopes: list[State] = []
    for row, c in zip(method.a, method.c):
        time = t_next if c == 1 else t + float(c) * h
        slopes.append(velocity(_advance(state, slopes, row, h), time))
    return _advance(state, slopes, method.b, h)


def _advance(state: Mapping[int, Tensor], slopes: Sequence[State], weights: Sequence[object], h: float) -> State:
    """x + h sum_i w_i k_i."""
    out = dict(state)
    for slope, weight in zip(slopes, weights):
        if weight:
            out = map_state(lambda x, v, w=h * float(weight): torch.add(x, v, alpha=w), out, slope)  # type: ignore[arg-type]
    return out


class RungeKutta(Solver):
    """A fixed-step method; a subclass names its `tableau`."""

    tableau: ClassVar[Tableau]

    def __init__(self, *, steps: Steps = 20) -> None:
        self.steps = steps

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.tableau.order

    def solve(
        self,
        field: Field,
        state: Mapping[int, Tensor],
        segment: Segment,
        generator: Generators | None = None,
        observe: Observer | None = None,
    ) -> tuple[State, Statistics]:
        grid = finite_grid(field, steps_in(self.steps, segment))
        current = dict(state)
        for t, t_next in pairwise(grid):
            current = rk_step(self.tableau, field.velocity, current, t, t_next)
            if observe is not None:
                observe(t_next, current)
        require_finite(current, segment)
        return current, Statistics(evaluations=(len(grid) - 1) * len(self.tableau.b), steps=len(grid) - 1)

    def require(self, segments: int) -> None:
        require_steps(self.steps, segments)


class Euler(RungeKutta):
    """Euler's method, order 1, one evaluation a step."""

    tableau = Tableau.explicit("", weights="1", order=1)


class Midpoint(RungeKutta):
    """The explicit midpoint rule, order 2, two evaluations a step."""

    tableau = Tableau.explicit("", "1/2", weights="0 1", order=2)


class Heun(RungeKutta):
    """Heun's trapezoidal rule, order 2, two evaluations a step."""

    tableau = Tableau.explicit("", "1", weights="1/2 1/2", order=2)


class RK4(RungeKutta):
    """The classical method of order 4, four evaluations a step."""

    tableau = Tableau.explicit("", "1/2", "0 1/2", "0 0 1", weights="1/6 1/3 1/3 1/6", order=4)
