"""The Laplacian pyramid with 2x2 average pooling and nearest upsampling (Burt & Adelson 1983; LapFlow, ICLR
2026).

With D the 2x2 average pool and U the nearest x2 upsampling, the bands of x are

    x_(K-1) = D^(K-1) x,        x_k = D^k x - U D^(k+1) x   (k < K-1),

and sum_k U^k x_k = x. With these D and U, U D and H = I - U D are orthogonal projectors, so a residual band
has range
H: its 2x2 block means are exactly zero, for data and for the noise of one white image alike. A quarter of the
dimensions of every residual is dead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lapflow.core.decomposition import Band, Decomposition
from lapflow.core.state import State


def downsample(x: Tensor) -> Tensor:
    """D: mean of each 2x2 block, [b, c, h, w] -> [b, c, h/2, w/2]."""
    return F.avg_pool2d(x, 2)


def upsample(x: Tensor) -> Tensor:
    """U: each pixel becomes a 2x2 block, [b, c, h, w] -> [b, c, 2h, 2w]."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class LaplacianPyramid(Decomposition):
    """Laplacian pyramid of 2x2 averages: the coarsest scale is a small picture, each finer one the
    residual."""

    def __init__(self, *, levels: Annotated[int, Field(ge=1, description="number of scales K")] = 2) -> None:
        self.levels = levels

    def analyze(self, x: Tensor, start: int = 0) -> State:
        self.check_size(x.shape[-2], x.shape[-1], start)
        residuals: list[tuple[int, Tensor]] = []
        for k in range(start, self.levels - 1):
            coarse = downsample(x)
            residuals.append((k, x - upsample(coarse)))
            x = coarse
        return {self.levels - 1: x, **dict(reversed(residuals))}

    def synthesize(self, state: Mapping[int, Tensor], start: int = 0) -> Tensor:
        x = state[self.levels - 1]
        for k in range(self.levels - 2, start - 1, -1):
            x = state[k] + upsample(x)
        return x

    def bands(self, shape: tuple[int, int, int]) -> dict[int, Band]:
        """Of white noise, residual k has std (sqrt 3 / 2)(1/2)^k per pixel and (1/2)^k per direction; the
        coarsest (1/2)^(K-1) both."""
        c, h, w = shape
        self.check_size(h, w)
        found = {}
        for k in reversed(range(self.levels)):
            std = 0.5**k
            dead = math.sqrt(3) / 2 if k < self.levels - 1 else 1.0
            found[k] = Band(k, c, h >> k, w >> k, pixel_std=dead * std, direction_std=std)
        return found

    def project(self, x: Tensor, scale: int) -> Tensor:
        return x - upsample(downsample(x)) if scale < self.levels - 1 else x
