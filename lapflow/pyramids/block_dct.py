"""Block DCT (Ahmed, Natarajan & Rao 1974; the basis of Relay Diffusion's blurring): two scales.

The image is cut into SIZE x SIZE blocks; the coarse band is the block mean [c, h/4, w/4], the fine band the
15 other coefficients of the orthonormal DCT-II of each block, as 15 c channels (channel 15 i + d of input
channel i; d + 1 = 4 row + column frequency). No dead dimension; of white noise the fine band is white of std
1, the coarse one of std 1/4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from lapflow.core.decomposition import Band, Decomposition, require_images
from lapflow.core.state import Shape, State, StateView
from lapflow.util.autocast import in_own_dtype
from lapflow.util.transfer import upload

SIZE = 4


class BlockDCT(Decomposition):
    """4x4 block DCT: the block means, and the other fifteen coefficients."""

    levels = 2

    def factors(self, scale: int) -> tuple[int, ...]:
        return SIZE, SIZE

    def check_size(self, sizes: Sequence[int], start: int = 0) -> None:
        require_images("the block DCT", len(sizes))
        super().check_size(sizes, start)

    def analyze(self, x: Tensor, start: int = 0) -> State:
        if start == 1:
            return {1: x}
        self.check_size(x.shape[2:])
        pixels = rearrange(x, "b c (h p) (w q) -> b c (p q) h w", p=SIZE, q=SIZE)
        with in_own_dtype(x):
            coefficients = torch.einsum("dn,bcnhw->bcdhw", _basis(x), pixels)
        return {
            1: coefficients[:, :, 0] / SIZE,
            0: rearrange(coefficients[:, :, 1:], "b c d h w -> b (c d) h w"),
        }

    def synthesize(self, state: StateView, start: int = 0) -> Tensor:
        if start == 1:
            return state[1]
        detail = rearrange(state[0], "b (c d) h w -> b c d h w", d=SIZE**2 - 1)
        coefficients = torch.cat([state[1].unsqueeze(2) * SIZE, detail], dim=2)
        with in_own_dtype(detail):
            pixels = torch.einsum("dn,bcdhw->bcnhw", _basis(detail), coefficients)
        return rearrange(pixels, "b c (p q) h w -> b c (h p) (w q)", p=SIZE)

    def bands(self, shape: Shape) -> dict[int, Band]:
        c, *sizes = shape
        self.check_size(sizes)
        small = self.size_at(sizes, 1)
        return {1: Band(1, c, small, 1 / SIZE, 1 / SIZE), 0: Band(0, (SIZE**2 - 1) * c, small, 1.0, 1.0)}


def _basis(like: Tensor) -> Tensor:
    """The orthonormal two-dimensional DCT-II, [coefficient, pixel], in the dtype and place of `like`."""
    n = torch.arange(SIZE, dtype=torch.float64, device="cpu")
    rows = torch.cos(math.pi * (2 * n + 1) * n[:, None] / (2 * SIZE)) * math.sqrt(2 / SIZE)
    rows[0] = math.sqrt(1 / SIZE)
    return upload(torch.kron(rows, rows), like.device, like.dtype)
