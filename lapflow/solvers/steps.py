"""Solvers with a fixed number of steps in each segment: one loop, and what it checks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field as Setting

from lapflow.core.errors import ConfigError, SolverError
from lapflow.core.field import TimeGrid
from lapflow.core.intervals import Segment
from lapflow.core.solver import F, History, Observer, Solver, Statistics, call_observer
from lapflow.core.state import State, StateView
from lapflow.util.random import Generators

Steps = Annotated[
    Annotated[int, Setting(ge=1)] | Sequence[Annotated[int, Setting(ge=1)]],
    Setting(description="steps in each segment; a list gives one number per segment, in time order"),
]


class FixedSteps(Solver[F]):
    """Steps along a grid of times; a subclass says what a step is, and which grid if not the path's own."""

    steered = True
    fixed_work = True

    def __init__(self, *, steps: Steps = 20) -> None:
        self.steps = steps

    def require(self, segments: int) -> None:
        if not isinstance(self.steps, int) and len(self.steps) != segments:
            raise ConfigError(
                "solver.steps must name every segment",
                got=f"{len(self.steps)} numbers for {segments} segments",
                expected="one number per segment, in time order, or a single number",
            )

    def plan(self, grid: TimeGrid, segment: Segment) -> None:
        self.times(grid, segment, self._steps_in(segment))

    def _steps_in(self, segment: Segment) -> int:
        return self.steps if isinstance(self.steps, int) else self.steps[segment.index]

    def times(self, grid: TimeGrid, segment: Segment, steps: int) -> list[float]:
        """The times that the steps join."""
        return grid.grid(steps)

    @abstractmethod
    def step(
        self,
        field: F,
        state: StateView,
        t: float,
        t_next: float,
        generator: Generators | None,
        history: History | None = None,
    ) -> tuple[State, int]:
        """(the state at `t_next`, evaluations made) from the state at `t`; a multistep method reads and
        extends the `history`."""

    def solve(
        self,
        field: F,
        state: StateView,
        segment: Segment,
        generator: Generators | None = None,
        observe: Observer | None = None,
        history: History | None = None,
    ) -> tuple[State, Statistics]:
        grid = self.times(field, segment, self._steps_in(segment))
        history = self.start_history() if history is None else history
        current, evaluations = dict(state), 0
        for t, t_next in pairwise(grid):
            current, made = self.step(field, current, t, t_next, generator, history)
            evaluations += made
            call_observer(observe, t_next, current, history)
        require_finite(current, segment)
        return current, Statistics(evaluations, len(grid) - 1)


def finite_grid(field: TimeGrid, steps: int) -> list[float]:
    """The segment's grid, from where the segment is entered to the last time at which the velocity is
    finite."""
    grid, start = field.grid(steps), field.segment.sampling_start
    stop = min(field.solve_t_max, grid[-1])
    return [start, *(t for t in grid[1:] if start < t < stop - 1e-12), stop]


def require_finite(state: StateView, segment: Segment) -> None:
    """Raises `SolverError` naming the scale if a state at the end of `segment` is not finite (one
    synchronisation)."""
    for k, x in state.items():
        if not bool(torch.isfinite(x).all()):
            raise SolverError(
                f"the state of scale {k} is not finite at the end of segment {segment.index}",
                got=f"{int((~torch.isfinite(x)).sum())} of {x.numel()} values",
                expected="finite values",
                remedy="take more steps, a lower guidance scale, float32, or look for a diverged training "
                "run",
            )
