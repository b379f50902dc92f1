"""Contract: how a sample splits into scales, and how the scales make the sample again."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.errors import SizeError
from lapflow.core.state import Shape, State, StateView

AXES = {1: ("length",), 2: ("height", "width"), 3: ("time", "height", "width")}
"""Names of the axes of series, of images, and of films (or volumes)."""


@dataclass(frozen=True)
class Band:
    """One scale of a sample of a known shape.

    `pixel_std` is the standard deviation per pixel of this band of a white, unit-variance sample;
    `direction_std` the same per orthonormal direction of the band's range (they differ where the band has
    dead dimensions). `condition` is the number of channels of the image that a network sees beside this one
    (a cascade's coarser image).
    """

    scale: int
    channels: int
    sizes: tuple[int, ...]
    pixel_std: float
    direction_std: float
    condition: int = 0

    @property
    def shape(self) -> Shape:
        return self.channels, *self.sizes


class Decomposition(Component):
    """A linear, exactly invertible split of a sample into `levels` = K bands, k = 0 finest, K-1 coarsest.

    Samples have `axes` axes: 1 (series), 2 (images) or 3 (films, volumes). The *image at scale s* is what the
    bands k >= s make: a coarser version of the same sample (`synthesize(.., s)`).
    """

    kind = "decomposition"
    levels: int
    axes: int = 2

    @abstractmethod
    def analyze(self, x: Tensor, start: int = 0) -> State:
        """Split `x` [b, c, *sizes], an image at scale `start`, into its bands {k: [b, c_k, *sizes_k]}, coarse
        to fine, k >= start.

        Linear in x, any floating dtype, differentiable. Raises `SizeError` (`check_size`).
        """

    @abstractmethod
    def synthesize(self, state: StateView, start: int = 0) -> Tensor:
        """The image at scale `start` made of the bands k >= start: the exact inverse of `analyze`."""

    @abstractmethod
    def bands(self, shape: Shape) -> dict[int, Band]:
        """The bands of a sample of `shape` (c, *sizes), coarse to fine. Raises `SizeError` (`check_size`)."""

    def project(self, x: Tensor, scale: int) -> Tensor:
        """Project `x` [b, c_k, *sizes_k] onto the range of band `scale`: what `analyze` can return there.

        The identity unless the band has dead dimensions.
        """
        return x

    def gain(self, scale: int) -> float:
        """What a constant sample's value is multiplied by in the image at `scale` (1 for averages, 2^(n/2)
        for orthonormal wavelets, n the axes halved on the way)."""
        return 1.0

    def factors(self, scale: int) -> tuple[int, ...]:
        """Per axis, how many times as long the image at `scale` is as the one at `scale` + 1: 2 where the
        axis is halved, 1 where it is not. All axes are halved, unless a decomposition says otherwise."""
        return (2,) * self.axes

    @property
    def contractions(self) -> tuple[float, ...]:
        """By what averaging divides the std of white noise from each scale but the coarsest to the next
        coarser one, coarse to fine: c = 2^(n/2) for n halved axes."""
        return tuple(math.sqrt(math.prod(self.factors(k))) for k in reversed(range(self.levels - 1)))

    def multiple(self, start: int = 0) -> tuple[int, ...]:
        """Per axis, what the size of an image at scale `start` must be a multiple of."""
        steps = [self.factors(k) for k in range(start, self.levels - 1)]
        return tuple(math.prod(step[axis] for step in steps) for axis in range(self.axes))

    @property
    def smallest(self) -> Shape:
        """The shape of the smallest sample that can be split, with one channel."""
        return 1, *self.multiple()

    def size_at(self, sizes: Sequence[int], scale: int) -> tuple[int, ...]:
        """The sizes of the image at `scale` of a sample of `sizes`."""
        return tuple(
            size * m // whole for size, m, whole in zip(sizes, self.multiple(scale), self.multiple())
        )

    def check_size(self, sizes: Sequence[int], start: int = 0) -> None:
        """Raises `SizeError`, naming sizes that work, unless these can be split at scale `start`."""
        levels = self.levels - 1 - start
        if len(sizes) != self.axes:
            raise SizeError(
                f"a sample with {_axes(len(sizes))}, and a decomposition for {_axes(self.axes)}",
                got=f"sizes {_by(sizes)}",
                expected=f"{self.axes}: {', '.join(AXES[self.axes])}",
                remedy=f"set flow.decomposition.axes={len(sizes)}, or state which of its axes are halved"
                if "axes" in self.config
                else "use the decomposition identity, laplacian or wavelet",
            )
        for name, size, multiple in zip(AXES[self.axes], sizes, self.multiple(start)):
            if size < 1 or size % multiple:
                below, above = size // multiple * multiple, (size // multiple + 1) * multiple
                works = " or ".join(str(s) for s in (below, above) if s)
                most = 1 + max((e for e in range(size.bit_length()) if size % 2**e == 0), default=0)
                raise SizeError(
                    f"a sample of {name} {size} cannot be split into {self.levels} scales",
                    got=_by(sizes),
                    expected=f"a {name} that is a multiple of {multiple}, for instance {works}",
                    remedy="resize the samples"
                    + (f", or use levels <= {most} for this size" if multiple == 2**levels else ""),
                )


def require_images(what: str, axes: int) -> None:
    """Raises `SizeError` for `what` works on images alone, unless the samples have their two axes."""
    if axes != 2:
        raise SizeError(
            f"{what} is for images alone",
            got=f"samples with {_axes(axes)}",
            expected=f"2 axes: {', '.join(AXES[2])}",
        )


def _axes(number: int) -> str:
    return "1 axis" if number == 1 else f"{number} axes"


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
