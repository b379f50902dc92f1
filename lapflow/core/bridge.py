"""Contract: how the state at the end of one segment becomes the state at the start of the next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.core.state import State, clock
from lapflow.core.transfer import upload


class Bridge(Component):
    """An affine map of (state, noise), band by band. The law check pushes a segment's end law through it when
    a composition is built. Whatever view of the state the network has, a bridge is given bands and returns
    bands.
    """

    kind = "bridge"

    designed: bool = False
    """Whether a scale enters without the data that training has there, by design: the mismatch is then
    reported, not refused."""

    def pyramids(self, segments: int) -> int:
        """The number of noise pyramids that a sample needs for a composition of so many segments."""
        return 1

    def pyramid(self, segment: Segment) -> int:
        """The pyramid whose noise the state of `segment` holds."""
        return 0

    @abstractmethod
    def cross(
        self,
        state: Mapping[int, Tensor],
        noise: Sequence[Mapping[int, Tensor]],
        before: Segment | None,
        after: Segment,
        path: Path,
    ) -> State:
        """The bands at `after.begin`, coarse to fine.

        `state` holds the bands at the end of `before`; it is empty and `before` is None at the very start.
        `noise` are the sample's noise pyramids {k: x0_k}, every scale, in units of the whole image: in a
        segment they count `after.unit` times.
        """


class ConditionalBridge(Bridge):
    """A bridge of a cascade: the next segment starts from noise alone, and the network is given the finished
    state beside it, corrupted by `corrupt`; training corrupts the data by the same function."""

    level: float
    """The level at which sampling corrupts."""

    @abstractmethod
    def corrupt(
        self,
        image: Mapping[int, Tensor],
        noise: Mapping[int, Tensor],
        level: Tensor,
        before: Segment,
        after: Segment,
    ) -> State:
        """What the network of `after` sees of the finished bands `image` of `before`: bands of `after`,
        corrupted at `level` [b] with a noise pyramid of its own (sampling: the one after
        `pyramid(after)`)."""

    @abstractmethod
    def draw_level(self, unit: Tensor) -> Tensor:
        """Training levels [b] from uniform draws [b] in [0, 1)."""

    @abstractmethod
    def corruption_unit(self, before: Segment, after: Segment) -> float:
        """The unit of the noise that `corrupt` adds."""


def entering(noise: Mapping[int, Tensor], after: Segment, scale: int, path: Path) -> Tensor:
    """Scale `scale` as it enters `after` from noise alone: sigma_k x0_k at the time at which sampling
    enters."""
    c = path.coefficients(clock(after.begin), after, scale).expand(noise[scale])
    return (upload(c.sigma, noise[scale].device, noise[scale].dtype) * after.unit) * noise[scale]
