"""Contract: what a solver integrates: dx/dt, or for methods beyond the ODE predicted data and noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from lapflow.core.attention import Mask
from lapflow.core.backbone import Heads
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients
from lapflow.core.state import State, StateView
from lapflow.util.random import Generators


class TimeGrid(ABC):
    """The times of one segment."""

    segment: Segment

    solve_t_max: float = 1.0
    """The last time at which the velocity is finite: a solver of the ODE stops there at the latest."""

    def grid(self, steps: int) -> list[float]:
        """`steps` + 1 rising times from segment.sampling_start to segment.stop, spaced as the path wants."""
        return self.segment.grid(steps)


class Field(TimeGrid):
    """dx/dt of a state in one segment."""

    mask: Mask = "none"
    """Which scales the velocity of a scale depends on: `causal` itself and the coarser ones, `self` itself,
    `none` possibly all. With the first two the velocity is continuous where a finer scale enters."""

    @abstractmethod
    def velocity(self, state: StateView, t: float) -> State:
        """The velocity of `state` at time `t`, in the state's dtype, at least float32. One evaluation."""


@dataclass(frozen=True)
class Endpoints:
    """Bands of the predicted data x1 and noise x0. `variance(t_next)` gives, per band, the variance per unit
    of noise variance of the step to `t_next` that the network has learnt; None if it has not."""

    data: State
    noise: State
    variance: Callable[[float], State] | None = None


class DenoiserField(Field):
    """A field whose network predicts the pair (x1, x0), band by band."""

    @abstractmethod
    def predict(self, state: StateView, t: float) -> Heads:
        """The network's heads at `state`, guided, in the state's dtype; `main` as the flow's prediction
        states it. One evaluation."""

    @abstractmethod
    def endpoints(self, state: StateView, t: float) -> Endpoints:
        """The predicted pair (x1, x0) at `state`. One evaluation."""

    @abstractmethod
    def alpha_sigma(self, t: float) -> dict[int, Coefficients]:
        """The path's coefficients of each band at `t`, on the CPU, to look at without a wait for the GPU."""

    @abstractmethod
    def noise(self, bands: StateView, generator: Generators | None) -> State:
        """Fresh noise of the law of x0, bands like `bands`."""

    def to_bands(self, state: StateView) -> State:
        """The bands of a state."""
        return dict(state)

    def to_image(self, bands: StateView) -> State:
        """The state of bands."""
        return dict(bands)

    def coefficients(self, bands: StateView, t: float) -> dict[int, Coefficients]:
        """Those of `alpha_sigma`, shaped to multiply the bands, on their device."""
        return {k: c.expand(bands[k]) for k, c in self.alpha_sigma(t).items()}
