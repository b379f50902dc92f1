"""Fixed sine-cosine position embedding along one, two or three axes (Vaswani et al. 2017; Chen et al. 2021;
as in DiT)."""

from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, ...]
"""The number of tokens along each axis."""


def position_embedding(
    width: int, grid: Grid, finest: Grid, device: torch.device | str | None = None
) -> Tensor:
    """Embedding [n, width] of the n tokens of a scale with so many along each axis, row by row, float32.

    Coordinates are the tokens' centres in units of the finest scale's tokens, so that tokens of different
    scales over the same place are embedded alike: along an axis, token i of g over a finest grid of G stands
    at (i + 1/2) G/g - 1/2. For the finest scale, and so for a single one, these are DiT's 0 .. G - 1. Each
    axis has an equal share of the width, the last axis first: as in DiT, the first half holds an image's
    column, the second its row.
    """
    axes, shares = len(grid), []
    for axis, (count, full) in enumerate(zip(grid, finest, strict=True)):
        share = _sine_cosine(_centres(count, full, device), width // axes)
        shares.append(share.reshape(*(count if i == axis else 1 for i in range(axes)), -1).expand(*grid, -1))
    return torch.cat(shares[::-1], dim=-1).reshape(-1, width).float()


def _centres(count: int, full: int, device: torch.device | str | None) -> Tensor:
    return (torch.arange(count, dtype=torch.float64, device=device) + 0.5) * (full / count) - 0.5


def _sine_cosine(position: Tensor, width: int) -> Tensor:
    """[n] -> [n, width]: sin then cos of position / 10000^(2 i / width)."""
    omega = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64, device=position.device) / (width // 2))
    angle = position[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
