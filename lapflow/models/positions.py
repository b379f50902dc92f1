"""Fixed sine-cosine position embedding in two dimensions (Vaswani et al. 2017; Chen et al. 2021; as in
DiT)."""

from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, int]


def position_embedding(
    width: int, grid: Grid, finest: Grid, device: torch.device | str | None = None
) -> Tensor:
    """Embedding [rows * columns, width] of the tokens of a scale with `grid` = (rows, columns), float32.

    Coordinates are the tokens' centres in units of the finest scale's tokens, so that tokens of different
    scales over the same place are embedded alike: along an axis, token i of g over a finest grid of G stands
    at (i + 1/2) G/g - 1/2. For the finest scale, and so for a single one, these are DiT's 0 .. G - 1. As in
    DiT, the first half of the width holds the column, the second the row.
    """
    rows, columns = (_centres(g, full, device) for g, full in zip(grid, finest, strict=True))
    column = _sine_cosine(columns, width // 2)[None].expand(grid[0], -1, -1)
    row = _sine_cosine(rows, width // 2)[:, None].expand(-1, grid[1], -1)
    return torch.cat([column, row], dim=-1).reshape(grid[0] * grid[1], width).float()


def _centres(count: int, full: int, device: torch.device | str | None) -> Tensor:
    return (torch.arange(count, dtype=torch.float64, device=device) + 0.5) * (full / count) - 0.5


def _sine_cosine(position: Tensor, width: int) -> Tensor:
    """[n] -> [n, width]: sin then cos of position / 10000^(2 i / width)."""
    omega = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64, device=position.device) / (width // 2))
    angle = position[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
