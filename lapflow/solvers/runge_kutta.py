"""Fixed-step explicit Runge-Kutta solvers: one stepping rule, methods as tableaux."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.field import Field, TimeGrid
from lapflow.core.intervals import Segment
from lapflow.core.solver import History
from lapflow.core.state import State, map_state
from lapflow.solvers.steps import FixedSteps, finite_grid
from lapflow.solvers.tableau import Tableau
from lapflow.util.random import Generators


def rk_step(
    method: Tableau,
    velocity: Callable[[State, float], State],
    state: Mapping[int, Tensor],
    t: float,
    t_next: float,
) -> State:
    """One explicit step: k_i = v(t + c_i h, x + h sum_j a_ij k_j), x' = x + h sum_i b_i k_i."""
    h = t_next - t
    slopes: list[State] = []
    for row, c in zip(method.a, method.c):
        time = t_next if c == 1 else t + float(c) * h
        slopes.append(velocity(_advance(state, slopes, row, h), time))
    return _advance(state, slopes, method.b, h)


def _advance(
    state: Mapping[int, Tensor], slopes: Sequence[State], weights: Sequence[object], h: float
) -> State:
    """x + h sum_i w_i k_i."""
    out = dict(state)
    for slope, weight in zip(slopes, weights):
        if weight:
            out = map_state(lambda x, v, w=h * float(weight): torch.add(x, v, alpha=w), out, slope)  # type: ignore[arg-type]
    return out


class RungeKutta(FixedSteps[Field]):
    """A fixed-step method; a subclass names its `tableau`."""

    tableau: ClassVar[Tableau]

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.tableau.order

    def times(self, grid: TimeGrid, segment: Segment, steps: int) -> list[float]:
        return finite_grid(grid, steps)

    def step(
        self,
        field: Field,
        state: Mapping[int, Tensor],
        t: float,
        t_next: float,
        generator: Generators | None,
        history: History | None = None,
    ) -> tuple[State, int]:
        return rk_step(self.tableau, field.velocity, state, t, t_next), len(self.tableau.b)


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
