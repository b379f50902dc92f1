"""A path on which the data comes in by a power of the time."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, Path


class Skeleton(Path):
    """alpha = v^power with v = (u - T) / (1 - T) on the scale's own interval [T, 1], sigma = 1 - u."""

    def __init__(
        self,
        *,
        power: Annotated[float, Field(ge=1, description="exponent of alpha; 1 is the linear path")] = 2.0,
    ) -> None:
        self.power = power

    def coefficients(self, t: Tensor, segment: Segment, scale: int) -> Coefficients:
        u, start = segment.variable(t), segment.entry[scale]
        v, rate = (u - start) / (1 - start), segment.rate
        slope = self.power * v ** (self.power - 1) * (rate / (1 - start))
        return Coefficients(v**self.power, 1 - u, slope, -rate * torch.ones_like(u))
