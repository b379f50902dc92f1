"""The Laplacian pyramid of block averages and nearest upsampling (Burt & Adelson 1983; LapFlow, ICLR 2026).

With D the mean of each block of 2 along the axes that a level halves and U the nearest upsampling, the bands
of x are

    x_(K-1) = D^(K-1) x,        x_k = D^k x - U D^(k+1) x   (k < K-1),

and sum_k U^k x_k = x. With these D and U, U D and H = I - U D are orthogonal projectors, so a residual band
has range H: its block means are exactly zero, for data and for the noise of one white sample alike. With n
halved axes 2^-n of the dimensions of a residual are dead, a quarter in an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, cast

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lapflow.core.decomposition import AXES, Band, Decomposition
from lapflow.core.errors import ConfigError
from lapflow.core.state import Shape, State, StateView

LevelsOption = Annotated[int, Field(ge=1, description="number of scales K; K - 1 levels halve axes")]
AxesOption = Annotated[
    int | Sequence[bool] | Sequence[Sequence[bool]],
    Field(
        description="the samples' number of axes, 1 to 3, all halved by every level; or which are halved, "
        "such as [false, true, true] (a film's height and width); or one such list per level, coarse to fine"
    ),
]


class HalvingPyramid(Decomposition):
    """K scales; each level halves some axes, by default both of an image's."""

    def __init__(self, *, levels: LevelsOption = 2, axes: AxesOption = 2) -> None:
        self.levels = levels
        self._factors = _factors(levels, axes)
        self.axes = len(self._factors[0])

    def factors(self, scale: int) -> tuple[int, ...]:
        return self._factors[scale]

    def contraction(self, scale: int) -> float:
        """By what averaging divides white noise's std from scale 0 to `scale`: 2^(N/2) after N halvings."""
        return 2.0 ** (sum(sum(self.factors(k)) - self.axes for k in range(scale)) / 2)


def _factors(levels: int, axes: int | Sequence[bool] | Sequence[Sequence[bool]]) -> list[tuple[int, ...]]:
    """2 for an axis that is halved and 1 for another, from each scale to the next coarser one, fine to
    coarse. One entry at least, which says how many axes there are."""
    steps = max(levels - 1, 1)
    if isinstance(axes, int):
        found = [(2,) * axes] * steps
    elif all(isinstance(flag, bool) for flag in axes):
        found = [tuple(1 + flag for flag in cast(Sequence[bool], axes))] * steps
    else:
        found = [tuple(1 + flag for flag in step) for step in reversed(cast(Sequence[Sequence[bool]], axes))]
    if len(found[0]) not in AXES:
        raise ConfigError("samples have 1 to 3 axes", got=f"axes {axes}", expected="1, 2 or 3")
    if len(found) != steps or any(len(step) != len(found[0]) or 2 not in step for step in found):
        raise ConfigError(
            "the axes that are halved do not fit the levels",
            got=f"axes {axes} for {levels} scales",
            expected=f"one list, or {steps} of equal length, coarse to fine, with an axis halved in each",
        )
    return found


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
        whose std per pixel is sqrt(1 - 2^-n) of that if the next level halves n axes: images (sqrt 3 /
        2)(1/2)^k."""
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
