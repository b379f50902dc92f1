"""Contract: integrate a field over one segment."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.errors import SolverError
from lapflow.core.field import Field, TimeGrid
from lapflow.core.intervals import Segment
from lapflow.core.state import State, StateView
from lapflow.util.random import Generators

Observer = Callable[[float, State], None]
F = TypeVar("F", bound=Field)


@dataclass(frozen=True)
class Statistics:
    """Work done: field `evaluations`, accepted `steps`, `rejected` steps of an adaptive method."""

    evaluations: int
    steps: int
    rejected: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.evaluations + other.evaluations, self.steps + other.steps, self.rejected + other.rejected
        )


@dataclass
class History:
    """The last evaluations of a multistep method, per scale the (time, velocity) pairs, latest last. It is
    kept outside the solver, one a sampling, so that two solves may interleave."""

    past: dict[int, list[tuple[float, Tensor]]] = field(default_factory=dict)

    def keep(self, scales: Collection[int]) -> None:
        """Forget every scale but `scales`: the velocity of the others is not continuous."""
        self.past = {k: pairs for k, pairs in self.past.items() if k in scales}


def call_observer(observe: Observer | None, t: float, state: State, history: History | None) -> None:
    """Call `observe(t, state)`. Where it puts other tensors in the state, the `history` is void."""
    if observe is None:
        return
    before = dict(state)
    observe(t, state)
    if history is not None and any(state[k] is not x for k, x in before.items()):
        history.keep(())


class Solver(Component, Generic[F]):
    """A method that carries a state from a segment's `sampling_start` to its stop, never evaluating outside,
    nor past the field's `solve_t_max`. `F` is the type of the fields that it takes."""

    kind = "solver"

    needs: type[Field] = Field  # type: ignore[type-abstract]  # it is compared with, not made
    """`F`, for `require_field`."""

    order: int
    """Convergence order of the method's error in the step size."""

    heads: tuple[str, ...] = ()
    """The heads beside `main` that the network must have."""

    steered: bool = False
    """Whether `observe` may put other tensors in the state, from which the next step then goes on."""

    fixed_work: bool = False
    """Whether the times at which `solve` evaluates a field follow from the segment and the path alone, so
    that a dry run can count the work (`lapflow.analysis.flops`)."""

    def plan(self, grid: TimeGrid, segment: Segment) -> None:
        """Raises `ConfigError` unless the settings fit a segment's path: asked before work starts."""

    def require(self, segments: int) -> None:
        """Raises `ConfigError` unless the settings fit a composition of `segments` segments."""

    def require_field(self, field: Field) -> None:
        """Raises `SolverError` for a field that does not give what the method `needs`."""
        if not isinstance(field, self.needs):
            raise SolverError(
                f"the solver {type(self).__name__} does not work with velocities only",
                got=type(field).__name__,
                expected=f"a {self.needs.__name__}",
                remedy="use a solver of the ODE, such as heun",
            )

    def start_history(self) -> History | None:
        """An empty history for one sampling; None for a one-step method."""
        return None

    @abstractmethod
    def solve(
        self,
        field: F,
        state: StateView,
        segment: Segment,
        generator: Generators | None = None,
        observe: Observer | None = None,
        history: History | None = None,
    ) -> tuple[State, Statistics]:
        """Carry `state` from `segment.sampling_start` to `segment.stop` (a solver of the ODE: to
        `field.solve_t_max` if that comes before).

        A stochastic method draws from `generator`. `observe(t, state)` is called after every accepted step.
        `history` is that of `start_history` with the steps of the segments before, of the scales whose
        velocity is continuous where this segment is entered; a multistep method goes on from it and adds to
        it, and without one it starts anew. Raises `SolverError` on a non-finite state or where a bound on the
        work is met. What `observe` raises ends the solve.
        """
