"""LapGAN's generators: for each scale, the image from noise and from the coarser image beside it.

In the merged representation the state of a segment is an image of its resolution; at the segment's start it
is noise z alone. With l the coarser image upsampled, the generator of the scale returns l + G(z, l, y); at
the coarsest G(z, y).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from lapflow.core.backbone import MAIN, Backbone, Heads
from lapflow.core.condition import Condition, Specs, class_rows, num_classes, refuse_unknown, specs
from lapflow.core.decomposition import Band
from lapflow.core.errors import ConfigError
from lapgan.layers import Block, multiply_adds


class ScaleGenerator(nn.Module):
    """G of one scale."""

    def __init__(self, band: Band, classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(band.channels + band.condition, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, classes) for _ in range(blocks))
        self.last = nn.Conv2d(width, band.channels, 3, padding=1)

    def forward(self, noise: Tensor, coarse: Tensor | None, labels: Tensor) -> Tensor:
        h = self.first(noise if coarse is None else torch.cat([noise, coarse], dim=1))
        for block in self.blocks:
            h = block(h, labels)
        detail: Tensor = self.last(h)
        return detail if coarse is None else coarse + detail


class Generator(Backbone):
    """One generator for each scale. It ignores the time, since it works at one time only: give it the path
    `one-step`."""

    def __init__(
        self,
        bands: Mapping[int, Band],
        condition: Specs | int = 0,
        *,
        width: Annotated[int, Field(ge=1, description="channels of the hidden layers")] = 64,
        blocks: Annotated[int, Field(ge=1, description="residual blocks of two convolutions")] = 3,
    ) -> None:
        super().__init__()
        self.bands, self.condition, self.width, self.count = dict(bands), specs(condition), width, blocks
        self.nets = nn.ModuleDict(
            {str(k): ScaleGenerator(band, num_classes(condition), width, blocks) for k, band in bands.items()}
        )

    def forward(
        self, state: Mapping[int, Tensor], t: Tensor, condition: Condition | Tensor | None = None
    ) -> Heads:
        given = Condition.of(condition)
        refuse_unknown(given, self.condition)
        labels = class_rows(given.labels, num_classes(self.condition), t)
        return {MAIN: {k: self.nets[str(k)](x, self._beside(k, x, given), labels) for k, x in state.items()}}

    def _beside(self, scale: int, x: Tensor, given: Condition) -> Tensor | None:
        """The coarser image, upsampled; None at the coarsest scale."""
        if not self.bands[scale].condition:
            return None
        if given.image is None:
            raise ConfigError(
                f"the generator of scale {scale} wants the coarser image beside it",
                expected="the bridge condition",
            )
        return given.image.value[scale].to(x.dtype)

    def multiply_adds(self, scales: Iterable[int]) -> dict[str, int]:
        total = 0
        for band in (self.bands[k] for k in scales):
            total += multiply_adds(
                band.channels + band.condition,
                self.width,
                self.count,
                band.channels,
                math.prod(band.sizes),
            )
        return {"linear": total}

    def units(self) -> list[nn.Module]:
        return [block for net in self.nets.values() for block in cast(ScaleGenerator, net).blocks]
