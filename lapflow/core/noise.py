"""Contract: the noise of every scale of a sample, a noise pyramid. And the usual ones: all are linear maps of
white draws, so that laws can be checked as operators."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.decomposition import Band, Decomposition, require_images
from lapflow.core.state import Device, Shape, State, StateView
from lapflow.util.random import Generators, randn

White = dict[int, Tensor]


class Noise(Component):
    """The law of a sample's noise pyramid for one decomposition (its context).

    `finest` is the finest scale of the segments in which a pyramid is used: 0 unless a bridge draws one for
    each segment.
    """

    kind = "noise"
    context = ("decomposition",)

    white: bool = True
    """Whether the noise of a band is white inside its range, with `direction_std`."""

    def __init__(self, decomposition: Decomposition) -> None:
        self.decomposition = decomposition

    @abstractmethod
    def white_shapes(self, shape: Shape) -> dict[int, Shape]:
        """The shapes of the white unit-variance draws behind the noise of a sample of `shape`."""

    @abstractmethod
    def from_white(self, white: StateView, finest: int = 0) -> State:
        """The noise pyramid {k: [b, c_k, *sizes_k]} made of white draws; linear."""

    def direction_std(self, band: Band) -> float:
        """Standard deviation per orthonormal direction of the band's range."""
        return band.direction_std

    def dead_std(self, band: Band) -> float:
        """Standard deviation per orthonormal direction outside the band's range."""
        return 0.0

    def draw(
        self,
        shape: Shape,
        batch: int,
        generator: Generators,
        *,
        dtype: torch.dtype,
        device: Device,
        finest: int = 0,
    ) -> State:
        """The noise pyramids of `batch` samples of `shape`."""
        return self.from_white(self.draw_white(shape, batch, generator, dtype=dtype, device=device), finest)

    def draw_white(
        self, shape: Shape, batch: int, generator: Generators, *, dtype: torch.dtype, device: Device
    ) -> White:
        """The white draws behind one pyramid of each of `batch` samples."""
        return {
            k: randn((batch, *s), generator, dtype=dtype, device=device)
            for k, s in self.white_shapes(shape).items()
        }


class DecomposedNoise(Noise):
    """One white draw of the sample's shape, analysed into independent bands; reconstructed, it is white."""

    def white_shapes(self, shape: Shape) -> dict[int, Shape]:
        return {0: shape}

    def from_white(self, white: StateView, finest: int = 0) -> State:
        return self.decomposition.analyze(white[0])


class IndependentNoise(Noise):
    """Unit white noise in each scale's tensor, dead dimensions included: the reconstruction is not white. For
    an orthonormal decomposition equal in law to `decomposed`."""

    def white_shapes(self, shape: Shape) -> dict[int, Shape]:
        return {k: band.shape for k, band in self.decomposition.bands(shape).items()}

    def from_white(self, white: StateView, finest: int = 0) -> State:
        return dict(white)

    def direction_std(self, band: Band) -> float:
        return 1.0

    def dead_std(self, band: Band) -> float:
        return 1.0


class BlurredNoise(Noise):
    """Relay Diffusion's noise eps + r box (Teng et al. 2023): eps white, box the circular BLOCK x BLOCK sum
    over BLOCK of an independent white image, variance 1, so the total has variance 1 + r^2. Its bands are
    neither white nor independent. At coarser scales alone, `decomposed`."""

    white = False
    STRENGTH, BLOCK = 0.15, 4

    def __init__(self, decomposition: Decomposition) -> None:
        require_images("blurred noise", decomposition.axes)
        super().__init__(decomposition)

    def white_shapes(self, shape: Shape) -> dict[int, Shape]:
        return {0: shape, 1: shape}

    def from_white(self, white: StateView, finest: int = 0) -> State:
        if finest > 0:
            return self.decomposition.analyze(white[0])
        rows = torch.stack([white[1].roll(i, -2) for i in range(self.BLOCK)]).sum(0)
        box = torch.stack([rows.roll(i, -1) for i in range(self.BLOCK)]).sum(0) / self.BLOCK
        return self.decomposition.analyze(white[0] + self.STRENGTH * box)
