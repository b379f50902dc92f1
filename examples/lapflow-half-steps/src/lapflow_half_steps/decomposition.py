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
from lapflow.core.errors import SizeError
from lapflow.core.state import State


class HalfSteps(Decomposition):
    """Orthonormal Haar pyramid, one axis at a time: scale k + 1 has half the pixels of scale k."""

    def __init__(self, *, levels: Annotated[int, Field(ge=1, description="number of scales K")] = 2) -> None:
        self.levels = levels

    def analyze(self, x: Tensor, start: int = 0) -> State:
        self.check_size(x.shape[-2], x.shape[-1], start)
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

    def bands(self, shape: tuple[int, int, int]) -> dict[int, Band]:
        c, h, w = shape
        self.check_size(h, w)
        found = []
        for k in range(self.levels - 1):
            h, w = (h, w // 2) if axis(k) == -1 else (h // 2, w)
            found.append(Band(k, c, h, w, pixel_std=1.0, direction_std=1.0))
        found.append(Band(self.levels - 1, c, h, w, pixel_std=1.0, direction_std=1.0))
        return {band.scale: band for band in reversed(found)}

    def gain(self, scale: int) -> float:
        return 2 ** (scale / 2)

    @property
    def multiple(self) -> int:
        return 2 ** (self.levels // 2)

    def check_size(self, height: int, width: int, start: int = 0) -> None:
        for name, size, of in (("height", height, -2), ("width", width, -1)):
            need = 2 ** sum(axis(k) == of for k in range(start, self.levels - 1))
            if size < 1 or size % need:
                raise SizeError(
                    f"an image of {name} {size} cannot be halved {need.bit_length() - 1} times",
                    got=f"{height}x{width}",
                    expected=f"a {name} that is a multiple of {need}, for instance "
                    f"{(size // need + 1) * need}",
                    remedy="resize the images, or use fewer levels",
                )


def axis(k: int) -> int:
    """The axis halved from scale k to k + 1: the width (-1) at even k, the height (-2) at odd k."""
    return -1 if k % 2 == 0 else -2


def pairs(x: Tensor, along: int) -> tuple[Tensor, Tensor]:
    """Even and odd positions along an axis."""
    first, second = x.unflatten(along, (-1, 2)).unbind(along)
    return first, second
