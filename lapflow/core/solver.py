"""Contract: integrate a field over one segment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lapflow.core.backbone import Heads
from lapflow.core.component import Component
from lapflow.core.errors import SolverError
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients
from lapflow.core.random import Generators
from lapflow.core.state import State

Observer = Callable[[float, State], None]


class Field(ABC):
    """What a solver integrates in one segment: dx/dt of a state; and for the methods that are not an ODE's,
    what the network says of the data and the noise in a state, band by band."""

    segment: Segment

    end: float = 1.0
    """The last time at which the velocity is finite; a solver of the ODE stops there if the segment goes
    on."""

    @abstractmethod
    def velocity(self, state: Mapping[int, Tensor], t: float) -> State:
        """The velocity of `state` at time `t`, in the state's dtype, at least float32. One evaluation."""

    def grid(self, steps: int) -> list[float]:
        """`steps` + 1 rising times from segment.begin to segment.stop, spaced as the path wants its noise
        levels."""
        return self.segment.grid(steps)

    def endpoints(self, state: Mapping[int, Tensor], t: float) -> Endpoints:
        """What the network predicts of the pair (x1, x0) at `state`. One evaluation."""
        raise SolverError(
            f"{type(self).__name__} gives velocities only", remedy="use a solver of the ODE, such as heun"
        )

    def predict(self, state: Mapping[int, Tensor], t: float) -> Heads:
        """The network's heads at `state`, guided, in the state's dtype: for a solver that needs more than
        `main` (`Solver.heads`). One evaluation."""
        raise SolverError(
            f"{type(self).__name__} gives velocities only", remedy="use a solver of the ODE, such as heun"
        )

    def split(self, state: Mapping[int, Tensor]) -> State:
        """The bands of a state."""
        return dict(state)

    def show(self, bands: Mapping[int, Tensor]) -> State:
        """The state of bands."""
        return dict(bands)

    def law(self, t: float) -> dict[int, Coefficients]:
        """The path's coefficients of each band at `t`, on the CPU: to be looked at without waiting for a
        GPU."""
        raise SolverError(
            f"{type(self).__name__} gives velocities only", remedy="use a solver of the ODE, such as heun"
        )

    def coefficients(self, bands: Mapping[int, Tensor], t: float) -> dict[int, Coefficients]:
        """Those of `law`, shaped to multiply the bands, on their device."""
        return {k: c.expand(bands[k]) for k, c in self.law(t).items()}

    def noise(self, bands: Mapping[int, Tensor], generator: Generators | None) -> State:
        """Fresh noise of the law of x0, bands like `bands`."""
        raise SolverError(
            f"{type(self).__name__} gives velocities only", remedy="use a solver of the ODE, such as heun"
        )


@dataclass(frozen=True)
class Endpoints:
    """Bands of the predicted data x1 and noise x0. `variance(t_next)` gives, per band, the variance per unit
    of noise variance of the step to `t_next` that the network has learnt; None if it has not."""

    data: State
    noise: State
    variance: Callable[[float], State] | None = None


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


class Solver(Component):
    """A method that carries a state from a segment's begin to its stop, never evaluating outside, nor past
    the field's `end`."""

    kind = "solver"
    order: int
    """Convergence order of the method's error in the step size."""

    heads: tuple[str, ...] = ()
    """The heads beside `main` that the network must have."""

    steered: bool = False
    """Whether `observe` may put other tensors in the place of the state's, from which the next step then goes
    on."""

    fixed_work: bool = False
    """Whether the times at which `solve` evaluates a field follow from the segment and the path alone, so
    that the work can be counted beforehand, by solving for a network that says nothing
    (`lapflow.sampling.rehearsal`)."""

    def plan(self, field: Field, segment: Segment) -> None:
        """Raises `ConfigError` unless the settings fit a segment's path: asked before work starts, of a field
        that gives grids only."""

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
        """Carry `state` from `segment.begin` to `segment.stop` (a solver of the ODE: to `field.end` if that
        comes before).

        A stochastic method draws from `generator`. `observe(t, state)` is called after every accepted step.
        Raises `SolverError` on a non-finite state or where a bound on the work is met. What `observe` raises
        ends the solve.
        """
