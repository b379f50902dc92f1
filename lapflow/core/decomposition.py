"""Contract: how an image splits into scales, and how the scales make the image again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.errors import SizeError
from lapflow.core.state import State


@dataclass(frozen=True)
class Band:
    """One scale of an image of a known shape.

    `pixel_std` is the standard deviation per pixel of this band of a white, unit-variance image;
    `direction_std` the same per orthonormal direction of the band's range (they differ where the band has
    dead dimensions). `condition` is the number of channels of the image that a network sees beside this one
    (a cascade's coarser image).
    """

    scale: int
    channels: int
    height: int
    width: int
    pixel_std: float
    direction_std: float
    condition: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


class Decomposition(Component):
    """A linear, exactly invertible split of an image into `levels` = K bands, k = 0 finest, K-1 coarsest.

    The *image at scale s* is what the bands k >= s make: a coarser picture of the same scene (`synthesize(..,
    s)`).
    """

    kind = "decomposition"
    levels: int

    @abstractmethod
    def analyze(self, x: Tensor, start: int = 0) -> State:
        """Split `x` [b, c, h, w], an image at scale `start`, into its bands {k: [b, c_k, h_k, w_k]}, coarse
        to fine, k >= start.

        Linear in x, any floating dtype, differentiable. Raises `SizeError` when h or w does not divide
        (`check_size`).
        """

    @abstractmethod
    def synthesize(self, state: Mapping[int, Tensor], start: int = 0) -> Tensor:
        """The image at scale `start` made of the bands k >= start: the exact inverse of `analyze` at every
        `start`."""

    @abstractmethod
    def bands(self, shape: tuple[int, int, int]) -> dict[int, Band]:
        """The bands of an image of `shape` (c, h, w), coarse to fine. Raises `SizeError` when the size does
        not fit."""

    def project(self, x: Tensor, scale: int) -> Tensor:
        """Project `x` [b, c_k, h_k, w_k] onto the range of band `scale`: what `analyze` can return there.

        The identity unless the band has dead dimensions.
        """
        return x

    def gain(self, scale: int) -> float:
        """What a constant image's value is multiplied by in the image at `scale` (1 for averages, 2^s for
        orthonormal wavelets)."""
        return 1.0

    @property
    def multiple(self) -> int:
        """Heights and widths must be multiples of this."""
        return 2 ** (self.levels - 1)

    def check_size(self, height: int, width: int, start: int = 0) -> None:
        """Raises `SizeError`, with sizes that would work, unless an image at scale `start` of this size can
        be split."""
        multiple = self.multiple // 2**start if start < self.levels else 1
        for name, size in (("height", height), ("width", width)):
            if size < 1 or size % multiple:
                below, above = size // multiple * multiple, (size // multiple + 1) * multiple
                works = " or ".join(str(s) for s in (below, above) if s)
                most = 1 + max((e for e in range(size.bit_length()) if size % 2**e == 0), default=0)
                raise SizeError(
                    f"an image of {name} {size} cannot be split into {self.levels} scales",
                    got=f"{height}x{width}",
                    expected=f"multiples of {multiple}, for instance {works}",
                    remedy="resize the images"
                    + (f", or use levels <= {most} for this size" if "levels" in self.config else ""),
                )
