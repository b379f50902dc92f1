"""The Laplacian pyramid with averages of blocks and nearest upsampling (Burt & Adelson 1983; LapFlow, ICLR
2026), in any number of axes.

With D the mean of each block of 2 along the axes that a level halves (2x2 in an image) and U the nearest
upsampling, the bands of x are

    x_(K-1) = D^(K-1) x,        x_k = D^k x - U D^(k+1) x   (k < K-1),

and sum_k U^k x_k = x. With these D and U, U D and H = I - U D are orthogonal projectors, so a residual band
has range H: its block means are exactly zero, for data and for the noise of one white sample alike. With n
halved axes 2^-n of the dimensions of a residual are dead, a quarter in an image.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from lapflow.core.decomposition import Band
from lapflow.core.state import Shape, State, StateView
from lapflow.pyramids.halving import HalvingPyramid


def downsample(x: Tensor, factors: int | tuple[int, ...] = 2) -> Tensor:
    """D: mean of each block of `factors` (of all axes, or per axis), [b, c, h, w] -> [b, c, h/2, w/2]."""
    if x.ndim == 4:
        return F.avg_pool2d(x, factors)
    # avg_pool3d has no kernel for half precision on a CPU.
    factors = (factors,) * (x.ndim - 2) if isinstance(factors, int) else factors
    for axis in reversed(range(len(factors))):
        x = x.unflatten(2 + axis, (-1, factors[axis]))
    return x.mean(tuple(range(3, x.ndim, 2)))


def upsample(x: Tensor, factors: int | tuple[int, ...] = 2) -> Tensor:
    """U: each pixel becomes a block of `factors`, [b, c, h, w] -> [b, c, 2h, 2w]."""
    return F.interpolate(x, scale_factor=factors, mode="nearest")


class LaplacianPyramid(HalvingPyramid):
    """Laplacian pyramid of block averages: the coarsest scale a small picture, each finer one a residual."""

    def analyze(self, x: Tensor, start: int = 0) -> State:
        self.check_size(x.shape[2:], start)
        residuals: list[tuple[int, Tensor]] = []
        for k in range(start, self.levels - 1):
            coarse = downsample(x, self.factors(k))
            residuals.append((k, x - upsample(coarse, self.factors(k))))
            x = coarse
        return {self.levels - 1: x, **dict(reversed(residuals))}

    def synthesize(self, state: StateView, start: int = 0) -> Tensor:
        x = state[self.levels - 1]
        for k in range(self.levels - 2, start - 1, -1):
            x = state[k] + upsample(x, self.factors(k))
        return x

    def bands(self, shape: Shape) -> dict[int, Band]:
        """Of white noise, after N halvings the image has std 2^(-N/2); so has each direction of its residual,
        whose std per pixel is sqrt(1 - 2^-n) of that if the next level halves n axes: (sqrt 3 / 2)(1/2)^k in
        images."""
        c, *sizes = shape
        self.check_size(sizes)
        found = {}
        for k in reversed(range(self.levels)):
            std = 1 / self.contraction(k)
            alive = math.sqrt(1 - 1 / math.prod(self.factors(k))) if k < self.levels - 1 else 1.0
            found[k] = Band(k, c, self.size_at(sizes, k), pixel_std=alive * std, direction_std=std)
        return found

    def project(self, x: Tensor, scale: int) -> Tensor:
        if scale == self.levels - 1:
            return x
        return x - upsample(downsample(x, self.factors(scale)), self.factors(scale))
