"""The lazy wavelet transform (Sweldens 1996): every second pixel is the coarser image, the three between are
the detail.

It only moves pixels, so it is orthonormal: white noise stays white in every band, and no band has dead
dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lapflow.core.decomposition import Band, Decomposition
from lapflow.core.state import Shape, State


class Skeleton(Decomposition):
    """Every second pixel in each direction, `levels` - 1 times; what is left out is the finer band, three
    channels for each."""

    def __init__(self, *, levels: Annotated[int, Field(ge=1, description="number of scales K")] = 2) -> None:
        self.levels = levels

    def analyze(self, x: Tensor, start: int = 0) -> State:
        self.check_size(x.shape[2:], start)
        details: list[tuple[int, Tensor]] = []
        for k in range(start, self.levels - 1):
            corners = F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4))
            x = corners[:, :, 0]
            details.append((k, corners[:, :, 1:].flatten(1, 2)))
        return {self.levels - 1: x, **dict(reversed(details))}

    def synthesize(self, state: Mapping[int, Tensor], start: int = 0) -> Tensor:
        x = state[self.levels - 1]
        for k in range(self.levels - 2, start - 1, -1):
            corners = torch.cat([x[:, :, None], state[k].unflatten(1, (-1, 3))], dim=2)
            x = F.pixel_shuffle(corners.flatten(1, 2), 2)
        return x

    def bands(self, shape: Shape) -> dict[int, Band]:
        c, *sizes = shape
        self.check_size(sizes)
        coarsest = self.levels - 1
        found = {coarsest: Band(coarsest, c, self.size_at(sizes, coarsest), pixel_std=1.0, direction_std=1.0)}
        for k in reversed(range(coarsest)):
            found[k] = Band(k, 3 * c, self.size_at(sizes, k + 1), pixel_std=1.0, direction_std=1.0)
        return found
