"""LapGAN's generators: for each scale, the image from noise and from the coarser image beside it.

In the merged representation the state of a segment is an image of its resolution; at the segment's start it
is noise z alone. With l the coarser image upsampled, the generator of the scale returns l + G(z, l, y); at
the coarsest G(z, y).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from lapflow.core.backbone import MAIN, Backbone, Heads
from lapflow.core.condition import Condition, Specs, num_classes, specs
from lapflow.core.decomposition import Band
from lapgan.layers import Block


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
        self.bands, self.condition = dict(bands), specs(condition)
        self.nets = nn.ModuleDict(
            {str(k): ScaleGenerator(band, num_classes(condition), width, blocks) for k, band in bands.items()}
        )

    def forward(
        self, state: Mapping[int, Tensor], t: Tensor, condition: Condition | Tensor | None = None
    ) -> Heads:
        given, found = self.known(condition), {}
        for k, x in state.items():
            coarser = self.coarser(given, k)
            beside = None if coarser is None else coarser.value[k].to(x.dtype)
            found[k] = self.nets[str(k)](x, beside, self.class_rows(given, t))
        return {MAIN: found}

    def units(self) -> list[nn.Module]:
        return [block for net in self.nets.values() for block in cast(ScaleGenerator, net).blocks]
