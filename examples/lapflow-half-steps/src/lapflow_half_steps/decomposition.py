"""A Haar pyramid that halves one axis at a time: the width, then the height, then the width, ...

One half step replaces neighbours a, b along an axis by (a + b) / sqrt 2 and (a - b) / sqrt 2. It is
orthonormal, so white noise stays white in every band and no band has dead dimensions. Each scale has half the
pixels of the next finer one instead of a quarter, which gives finer control over where tokens go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.decomposition import Band, Decomposition
from lapflow.core.state import Shape, State


class HalfSteps(Decomposition):
    """Orthonormal Haar pyramid, one axis at a time: scale k + 1 has half the pixels of scale k."""

    def __init__(self, *, levels: Annotated[int, Field(ge=1, description="number of scales K")] = 2) -> None:
        self.levels = levels

    def analyze(self, x: Tensor, start: int = 0) -> State:
        self.check_size(x.shape[2:], start)
        details: list[tuple[int, Tensor]] = []
        for k in range(start, self.levels - 1):
            even, odd = pairs(x, axis(k))
            x = (even + odd) * 0.5**0.5
            details.append((k, (even - odd) * 0.5**0.5))
        return {self.levels - 1: x, **dict(reversed(details))}

    def synthesize(self, state: Mapping[int, Tensor], start: int = 0) -> Tensor:
        x = state[self.levels - 1]
        for k in range(self.levels - 2, start - 1, -1):
            even, odd = (x + state[k]) * 0.5**0.5, (x - state[k]) * 0.5**0.5
            x = torch.stack([even, odd], dim=axis(k) + x.ndim + 1).flatten(axis(k) - 1, axis(k))
        return x

    def bands(self, shape: Shape) -> dict[int, Band]:
        c, *sizes = shape
        self.check_size(sizes)
        top = self.levels - 1
        held = {k: self.size_at(sizes, min(k + 1, top)) for k in reversed(range(self.levels))}
        return {k: Band(k, c, size, pixel_std=1.0, direction_std=1.0) for k, size in held.items()}

    def gain(self, scale: int) -> float:
        return 2 ** (scale / 2)

    def factors(self, scale: int) -> tuple[int, int]:
        return (1, 2) if axis(scale) == -1 else (2, 1)


def axis(k: int) -> int:
    """The axis halved from scale k to k + 1: the width (-1) at even k, the height (-2) at odd k."""
    return -1 if k % 2 == 0 else -2


def pairs(x: Tensor, along: int) -> tuple[Tensor, Tensor]:
    """Even and odd positions along an axis."""
    first, second = x.unflatten(along, (-1, 2)).unbind(along)
    return first, second
