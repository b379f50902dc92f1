"""Contract: integrate a field over one segment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.intervals import Segment
from lapflow.core.random import Generators
from lapflow.core.state import State

Observer = Callable[[float, Mapping[int, Tensor]], None]


class Field(ABC):
    """What a solver integrates: dx/dt of a state in one segment."""

    segment: Segment

    @abstractmethod
    def velocity(self, state: Mapping[int, Tensor], t: float) -> State:
        """The velocity of `state` at time `t`, in the state's dtype, at least float32."""


@dataclass(frozen=True)
class Statistics:
    """Work done: field `evaluations`, accepted `steps`, `rejected` steps of an adaptive method."""

    evaluations: int
    steps: int
    rejected: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(self.evaluations + other.evaluations, self.steps + other.steps, self.rejected + other.rejected)


class Solver(Component):
    """A method that carries a state from a segment's start to its stop, never evaluating outside [start, stop]."""

    kind = "solver"
    order: int
    """Convergence order of the method's error in the step size."""

    def require(self, segments: int) -> None:
        """Raises `ConfigError` unless the settings fit a composition of `segments` segments."""

    @abstractmethod
    def solve(
        self,
        field: Field,
        state: Mapping[int, Tensor],
        segment: Segment,
        generator: Generators | None = None,
        observe: Observer | None = None,
    ) -> tuple[State, Statistics]:
        """Integrate from `segment.start` to `segment.stop`.

        A stochastic method draws from `generator`. `observe(t, state)` is called after every accepted step. Raises
        `SolverError` on a non-finite state or where a bound on the work is met.
        """
