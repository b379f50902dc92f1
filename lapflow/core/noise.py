"""The noise pyramid: the noise of every scale of a sample.

`decomposed`: one white image, analysed. Its bands are independent, and the reconstruction of the noise is white.
`independent`: unit white noise in each scale's tensor, dead dimensions included; the reconstruction is then not white.
For an orthonormal decomposition the two are equal in law. Both are linear maps of white draws, so that laws can be
checked as operators.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from lapflow.core.decomposition import Band, Decomposition
from lapflow.core.random import Generators, randn
from lapflow.core.state import State

NoiseName = Literal["decomposed", "independent"]
White = dict[int, Tensor]


class Noise(ABC):
    """The law of a sample's noise pyramid for one decomposition."""

    def __init__(self, decomposition: Decomposition) -> None:
        self.decomposition = decomposition

    @abstractmethod
    def white_shapes(self, shape: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
        """The shapes of the white unit-variance draws behind the noise of an image of `shape` (c, h, w)."""

    @abstractmethod
    def from_white(self, white: Mapping[int, Tensor]) -> State:
        """The noise pyramid {k: [b, c_k, h_k, w_k]} made of white draws; linear."""

    @abstractmethod
    def direction_std(self, band: Band) -> float:
        """Standard deviation per orthonormal direction of the band's range."""

    @abstractmethod
    def dead_std(self, band: Band) -> float:
        """Standard deviation per orthonormal direction outside the band's range."""

    def draw(
        self, shape: tuple[int, int, int], batch: int, generator: Generators, *, dtype: torch.dtype, device: torch.device | str
    ) -> State:
        """The noise pyramids of `batch` samples of image shape (c, h, w)."""
        return self.from_white({k: randn((batch, *s), generator, dtype=dtype, device=device) for k, s in self.white_shapes(shape).items()})


class DecomposedNoise(Noise):
    """One white image, analysed into bands."""

    def white_shapes(self, shape: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
        return {0: shape}

    def from_white(self, white: Mapping[int, Tensor]) -> State:
        return self.decomposition.analyze(white[0])

    def direction_std(self, band: Band) -> float:
        return band.direction_std

    def dead_std(self, band: Band) -> float:
        return 0.0


class IndependentNoise(Noise):
    """Unit white noise in each scale's tensor."""

    def white_shapes(self, shape: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
        return {k: band.shape for k, band in self.decomposition.bands(shape).items()}

    def from_white(self, white: Mapping[int, Tensor]) -> State:
        return dict(white)

    def direction_std(self, band: Band) -> float:
        return 1.0

    def dead_std(self, band: Band) -> float:
        return 1.0


NOISES: dict[str, type[Noise]] = {"decomposed": DecomposedNoise, "independent": IndependentNoise}
