"""The Adams-Bashforth method of two steps (Hairer, Norsett & Wanner, "Solving ODEs I", III.5: explicit Adams
methods with variable step sizes). Band by band, with v_n the velocity at t_n and h_n = t_(n+1) - t_n,

    x_(n+1) = x_n + h_n v_n + h_n^2 / (2 h_(n-1)) (v_n - v_(n-1)):

the integral over the step of the line through the last two velocities. Where a band has no velocity before,
the step is Euler's: one such step each time a band enters leaves the order at 2.
"""

from __future__ import annotations

import torch

from lapflow.core.field import Field, TimeGrid
from lapflow.core.intervals import Segment
from lapflow.core.solver import History
from lapflow.core.state import State, StateView
from lapflow.solvers.steps import FixedSteps, finite_grid
from lapflow.util.random import Generators


class AdamsBashforth2(FixedSteps[Field]):
    """Adams-Bashforth with two steps, order 2, one evaluation a step. A band keeps its history across an
    entry of finer scales where its velocity is continuous there (masks `causal` and `self`)."""

    order = 2

    def start_history(self) -> History:
        return History()

    def times(self, grid: TimeGrid, segment: Segment, steps: int) -> list[float]:
        return finite_grid(grid, steps)

    def step(
        self,
        field: Field,
        state: StateView,
        t: float,
        t_next: float,
        generator: Generators | None,
        history: History | None = None,
    ) -> tuple[State, int]:
        assert history is not None, "solve starts one where none is given"
        h, velocity, moved = t_next - t, field.velocity(state, t), {}
        for k, v in velocity.items():
            moved[k] = torch.add(state[k], v, alpha=h)
            if pairs := history.past.get(k):
                t_before, v_before = pairs[-1]
                moved[k].add_(v - v_before, alpha=h**2 / (2 * (t - t_before)))
        history.past = {k: [(t, v)] for k, v in velocity.items()}
        return moved, 1
