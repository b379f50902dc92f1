"""Contract: how the state at the end of one segment becomes the state at the start of the next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.core.state import State, StateView, scalar_time
from lapflow.util.transfer import upload


class Bridge(Component):
    """An affine map of (state, noise), band by band. The law check pushes a segment's end law through it when
    a composition is built. Whatever the representation, it is given bands and returns bands.
    """

    kind = "bridge"

    designed: bool = False
    """Whether a scale enters without the data that training has there, by design: reported, not refused."""

    def num_noise_draws(self, segments: int) -> int:
        """The number of noise pyramids that a sample needs for a composition of so many segments."""
        return 1

    def noise_index(self, segment: Segment) -> int:
        """The pyramid whose noise the state of `segment` holds."""
        return 0

    @abstractmethod
    def cross(
        self, state: StateView, noise: Sequence[StateView], before: Segment | None, after: Segment, path: Path
    ) -> State:
        """The bands at `after.sampling_start`, coarse to fine.

        `state` holds the bands at the end of `before`; it is empty and `before` is None at the very start.
        `noise` are the sample's noise pyramids {k: x0_k} of the whole image; a segment's are
        `after.noise_scale` times these.
        """


class ConditionalBridge(Bridge):
    """A bridge of a cascade: the next segment starts from noise alone, and the network is given the finished
    state beside it, corrupted by `corrupt`; training corrupts the data by the same function."""

    corruption_level: float
    """The level at which sampling corrupts."""

    @abstractmethod
    def corrupt(
        self, image: StateView, noise: StateView, level: Tensor, before: Segment, after: Segment
    ) -> State:
        """What the network of `after` sees of the finished `image` of `before`: bands of `after`, corrupted
        at `level` [b] with its own noise pyramid (sampling: the one after `noise_index(after)`)."""

    @abstractmethod
    def draw_corruption_level(self, u: Tensor) -> Tensor:
        """Training levels [b] from uniform draws [b] in [0, 1)."""

    @abstractmethod
    def corruption_noise_scale(self, before: Segment, after: Segment) -> float:
        """The noise scale of what `corrupt` adds."""


def entering(noise: StateView, after: Segment, scale: int, path: Path) -> Tensor:
    """Scale `scale` as it enters `after` from noise alone: sigma_k x0_k where sampling enters."""
    c = path.coefficients(scalar_time(after.sampling_start), after, scale).expand(noise[scale])
    return (upload(c.sigma, noise[scale].device, noise[scale].dtype) * after.noise_scale) * noise[scale]
