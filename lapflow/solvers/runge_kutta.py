"""Fixed-step explicit Runge-Kutta solvers: one stepping rule, methods as tableaux that check themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch

from lapflow.core.field import Field, TimeGrid
from lapflow.core.intervals import Segment
from lapflow.core.solver import History
from lapflow.core.state import State, StateView, map_state
from lapflow.solvers.steps import FixedSteps, finite_grid
from lapflow.util.random import Generators


@dataclass(frozen=True)
class Tableau:
    """Butcher tableau of an explicit method of s stages: a (s rows, strictly lower triangular), b, c and the
    `order`.

    Checked: shapes, c_i = sum_j a_ij, and the order conditions up to `order` (1 to 4; Hairer, Norsett &
    Wanner, II.2).
    """

    a: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]
    c: tuple[Fraction, ...]
    order: int

    @classmethod
    def explicit(cls, *rows: str, weights: str, order: int) -> Tableau:
        """A tableau from rows of fractions, such as `explicit("", "1/2", weights="0 1", order=2)`; c is the
        row sums."""
        a = tuple(tuple(Fraction(x) for x in row.split()) for row in rows)
        return cls(
            a, tuple(Fraction(x) for x in weights.split()), tuple(sum(row, Fraction(0)) for row in a), order
        )

    def __post_init__(self) -> None:
        stages = len(self.b)
        assert len(self.c) == stages, "c has one entry per stage"
        assert [len(row) for row in self.a] == list(range(stages)), "row i of a holds i entries"
        assert all(sum(row) == c for row, c in zip(self.a, self.c)), "c_i must be the sum of row i of a"
        assert 1 <= self.order <= 4, "order conditions are written out for orders 1 to 4"
        for condition, value in self._conditions()[: (1, 2, 4, 8)[self.order - 1]]:
            assert condition == value, (
                f"an order-{self.order} condition does not hold: {condition} != {value}"
            )

    def _conditions(self) -> list[tuple[Fraction, Fraction]]:
        """The order conditions of trees with 1, 2, 3 and 4 nodes: (sum, required value)."""
        b, c = self.b, self.c
        ac = [sum((x * y for x, y in zip(row, c)), Fraction(0)) for row in self.a]
        ac2 = [sum((x * y * y for x, y in zip(row, c)), Fraction(0)) for row in self.a]
        aac = [sum((x * y for x, y in zip(row, ac)), Fraction(0)) for row in self.a]

        def dot(*factors: list[Fraction] | tuple[Fraction, ...]) -> Fraction:
            total = Fraction(0)
            for terms in zip(b, *factors):
                product = Fraction(1)
                for term in terms:
                    product *= term
                total += product
            return total

        sums = [dot(), dot(c), dot(c, c), dot(ac), dot(c, c, c), dot(c, ac), dot(ac2), dot(aac)]
        return list(zip(sums, map(Fraction, ("1", "1/2", "1/3", "1/6", "1/4", "1/8", "1/12", "1/24"))))


def rk_step(
    method: Tableau, velocity: Callable[[State, float], State], state: StateView, t: float, t_next: float
) -> State:
    """One explicit step: k_i = v(t + c_i h, x + h sum_j a_ij k_j), x' = x + h sum_i b_i k_i."""
    h = t_next - t
    slopes: list[State] = []
    for row, c in zip(method.a, method.c):
        time = t_next if c == 1 else t + float(c) * h
        slopes.append(velocity(_advance(state, slopes, row, h), time))
    return _advance(state, slopes, method.b, h)


def _advance(state: StateView, slopes: Sequence[State], weights: Sequence[object], h: float) -> State:
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
        state: StateView,
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
