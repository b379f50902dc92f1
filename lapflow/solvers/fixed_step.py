"""Solvers with a fixed number of steps in each segment: one loop, and the methods of the ODE."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Setting

from lapflow.core.errors import ConfigError, SolverError
from lapflow.core.field import Field, TimeGrid
from lapflow.core.intervals import Segment
from lapflow.core.solver import F, History, Observer, Solver, Statistics, call_observer
from lapflow.core.state import State, StateView, map_state
from lapflow.util.random import Generators

Steps = Annotated[
    Annotated[int, Setting(ge=1)] | Sequence[Annotated[int, Setting(ge=1)]],
    Setting(description="steps in each segment; a list gives one number per segment, in time order"),
]


Step = Callable[[F, StateView, float, float, Generators | None], tuple[State, int]]


class FixedSteps(Solver[F]):
    """Steps along a grid of times; a subclass says what a step is, and which grid if not the usual one."""

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
        """The times that the steps join: the path's own grid; for a method of the ODE from where the segment
        is entered to the last time at which the velocity is finite."""
        times = grid.grid(steps)
        if self.needs is not Field:
            return times
        start, stop = segment.sampling_start, min(grid.solve_t_max, times[-1])
        return [start, *(t for t in times[1:] if start < t < stop - 1e-12), stop]

    @abstractmethod
    def step(
        self, field: F, state: StateView, t: float, t_next: float, generator: Generators | None
    ) -> tuple[State, int]:
        """(the state at `t_next`, evaluations made) from the state at `t`."""

    def stepping(self, history: History | None) -> Step[F]:
        """`step`; of a multistep method the one that reads and extends the `history`."""
        return self.step

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
        step, current, evaluations = self.stepping(history), dict(state), 0
        for t, t_next in pairwise(grid):
            current, made = step(field, current, t, t_next, generator)
            evaluations += made
            call_observer(observe, t_next, current, history)
        require_finite(current, segment)
        return current, Statistics(evaluations, len(grid) - 1)


def require_finite(state: StateView, segment: Segment) -> None:
    """Raises `SolverError` naming the scale that is not finite at the end of `segment` (synchronises)."""
    for k, x in state.items():
        if not bool(torch.isfinite(x).all()):
            raise SolverError(
                f"the state of scale {k} is not finite at the end of segment {segment.index}",
                got=f"{int((~torch.isfinite(x)).sum())} of {x.numel()} values",
                expected="finite values",
                remedy="take more steps, a lower guidance scale, float32, or look for a diverged training "
                "run",
            )


@dataclass(frozen=True)
class Tableau:
    """Butcher tableau of an explicit method of s stages: a (strictly lower triangular), b, c, `order`.

    Checked: shapes, c_i = sum_j a_ij, the conditions of orders 1 to 4 (Hairer, Norsett & Wanner, II.2).
    """

    a: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]
    c: tuple[Fraction, ...]
    order: int

    @classmethod
    def explicit(cls, *rows: str, weights: str, order: int) -> Tableau:
        """A tableau from rows of fractions, such as `explicit("", "1/2", weights="0 1", order=2)`; c is the
        row sums."""
        *a, b = (tuple(map(Fraction, row.split())) for row in (*rows, weights))
        return cls(tuple(a), b, tuple(sum(row, Fraction(0)) for row in a), order)

    def __post_init__(self) -> None:
        stages = len(self.b)
        assert len(self.c) == stages, "c has one entry per stage"
        assert [len(row) for row in self.a] == list(range(stages)), "row i of a holds i entries"
        assert all(sum(row) == c for row, c in zip(self.a, self.c)), "c_i must be the sum of row i of a"
        assert 1 <= self.order <= 4, "order conditions are written out for orders 1 to 4"
        for condition, value in self._conditions()[: (1, 2, 4, 8)[self.order - 1]]:
            assert condition == value, f"a condition of order {self.order} fails: {condition} != {value}"

    def _conditions(self) -> list[tuple[Fraction, Fraction]]:
        """The order conditions of trees with 1, 2, 3 and 4 nodes: (sum, required value)."""
        b, c = self.b, self.c

        def dot(*factors: Sequence[Fraction]) -> Fraction:
            return sum((math.prod(terms, start=Fraction(1)) for terms in zip(*factors)), Fraction(0))

        ac = [dot(row, c) for row in self.a]
        ac2 = [dot(row, c, c) for row in self.a]
        aac = [dot(row, ac) for row in self.a]
        trees = ((), (c,), (c, c), (ac,), (c, c, c), (c, ac), (ac2,), (aac,))
        sums = [dot(b, *factors) for factors in trees]
        return list(zip(sums, map(Fraction, ("1", "1/2", "1/3", "1/6", "1/4", "1/8", "1/12", "1/24"))))


class RungeKutta(FixedSteps[Field]):
    """A fixed-step method; a subclass names its `tableau`."""

    tableau: ClassVar[Tableau]

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.tableau.order

    def step(
        self, field: Field, state: StateView, t: float, t_next: float, generator: Generators | None
    ) -> tuple[State, int]:
        """k_i = v(t + c_i h, x + h sum_j a_ij k_j), x' = x + h sum_i b_i k_i."""
        h = t_next - t
        slopes: list[State] = []
        for row, c in zip(self.tableau.a, self.tableau.c):
            time = t_next if c == 1 else t + float(c) * h
            slopes.append(field.velocity(_advance(state, slopes, row, h), time))
        return _advance(state, slopes, self.tableau.b, h), len(slopes)


def _advance(state: StateView, slopes: Sequence[State], weights: Sequence[Fraction], h: float) -> State:
    """x + h sum_i w_i k_i."""
    out = dict(state)
    for slope, weight in zip(slopes, weights):
        if weight:
            out = map_state(lambda x, v, w=h * float(weight): torch.add(x, v, alpha=w), out, slope)
    return out


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


class AdamsBashforth2(FixedSteps[Field]):
    """Adams-Bashforth with two steps, order 2, one evaluation a step. A band keeps its history across an
    entry of finer scales where its velocity is continuous there (masks `causal` and `self`).

    Band by band, with v_n the velocity at t_n and h_n = t_(n+1) - t_n,

        x_(n+1) = x_n + h_n v_n + h_n^2 / (2 h_(n-1)) (v_n - v_(n-1)):

    the integral over the step of the line through the last two velocities (Hairer, Norsett & Wanner, "Solving
    ODEs I", III.5: explicit Adams methods with variable step sizes). Where a band has no velocity before, the
    step is Euler's: one such step each time a band enters leaves the order at 2.
    """

    order = 2

    def start_history(self) -> History:
        return History()

    def stepping(self, history: History | None) -> Step[Field]:
        return partial(self.step, history=history)

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
