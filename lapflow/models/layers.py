"""The layers of a diffusion transformer around its blocks (DiT, Peebles & Xie 2023).

Shapes: b batch, n tokens of a scale, d width, c channels, p patch size along an axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lapflow.core.condition import Vector, class_rows
from lapflow.core.decomposition import Band

Grid = tuple[int, ...]
"""The number of tokens along each axis."""


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """[b, c, *sizes] -> [b, n, c p..], row by row; `patch` holds a p for each axis."""
    axes = len(patch)
    for axis in reversed(range(axes)):
        x = x.unflatten(2 + axis, (-1, patch[axis]))
    grid, inside = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
    return x.permute(0, *grid, 1, *inside).flatten(1, axes).flatten(2)


def unpatchify(tokens: Tensor, patch: Sequence[int], grid: Grid) -> Tensor:
    """[b, n, p.. c] -> [b, c, *sizes], sizes = grid * patch along each axis. Channels come last in a token,
    as in DiT's final layer."""
    axes = len(patch)
    x = tokens.unflatten(2, (*patch, -1)).unflatten(1, grid)
    pairs = [dim for axis in range(axes) for dim in (1 + axis, 1 + axes + axis)]
    x = x.permute(0, 1 + 2 * axes, *pairs)
    return x.reshape(*x.shape[:2], *(g * p for g, p in zip(grid, patch)))


def grid_of(band: Band, patch: Sequence[int]) -> Grid:
    """The number of patches along each axis."""
    return tuple(size // p for size, p in zip(band.sizes, patch, strict=True))


def position_embedding(
    width: int, grid: Grid, finest: Grid, device: torch.device | str | None = None
) -> Tensor:
    """Fixed sine-cosine position embedding (Vaswani et al. 2017; Chen et al. 2021; as in DiT)
    [n, width] of the n tokens of a scale with so many along each axis, row by row, float32.

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


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, with x [b, n, d], shift and scale [b, 1, d]."""
    return torch.addcmul(shift, x, 1 + scale)


class PatchEmbed(nn.Module):
    """The patches of one scale as tokens, with their positions."""

    position: Tensor

    def __init__(self, band: Band, patch: Sequence[int], width: int, finest: Grid) -> None:
        super().__init__()
        self.patch, self.finest = patch, finest
        self.grid = grid_of(band, patch)
        self.proj = nn.Linear((band.channels + band.condition) * math.prod(patch), width)
        self.register_buffer("position", position_embedding(width, self.grid, finest), persistent=False)

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, *sizes] -> [b, n, d]."""
        return self.proj(patchify(x, self.patch).to(self.proj.weight.dtype)) + self.position

    def reset_position(self) -> None:
        """Fill the position buffer, which no checkpoint holds."""
        self.position.copy_(
            position_embedding(self.position.shape[-1], self.grid, self.finest, self.position.device)
        )


class TimestepEmbedder(nn.Module):
    """A time, in [0, 1] for most paths -> vector: sinusoid of 1000 t, then an MLP.

    The sinusoid's frequencies (1 to 1/10000) were made for the integer times 0 .. 1000 of diffusion; t in [0,
    1] would use a thousandth of their range, so t is multiplied by 1000 first.
    """

    SCALE = 1000.0

    def __init__(self, width: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """t [b] -> [b, d]."""
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        return self.mlp(self.sinusoid(t).to(first.weight.dtype))

    def sinusoid(self, t: Tensor) -> Tensor:
        """t [b] -> [b, frequencies], cos then sin, in at least float32: half precision cannot hold angles up
        to 1000."""
        half = self.frequencies // 2
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        omega = torch.exp(-math.log(10000.0) / half * torch.arange(half, dtype=t.dtype, device=t.device))
        angle = self.SCALE * t[:, None] * omega
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


class LabelEmbedder(nn.Module):
    """A table of `count` + 1 rows; the last one stands for no class (`NULL`)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(count + 1, width)

    def forward(self, labels: Tensor | None, like: Tensor) -> Tensor:
        """labels [b], or None for no class -> [b, d]. `like` [b, ...] gives batch size and device."""
        return self.table(class_rows(labels, self.table.num_embeddings - 1, like))


class VectorEmbedder(nn.Module):
    """Numbers -> a vector of the network's width, by an MLP; `null` stands for none given."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.empty(width))

    def forward(self, part: Vector | None, like: Tensor) -> Tensor:
        """The part, or None for nothing given -> [b, d]. `like` [b, ...] gives the batch size."""
        if part is None:
            return self.null.expand(len(like), -1)
        return torch.where(part.given[:, None], self.mlp(part.value.to(self.null.dtype)), self.null)


class MLP(nn.Module):
    """Two linear layers around a GELU (tanh form)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., d]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class FinalLayer(nn.Module):
    """The tokens of one scale back to its pixels: norm, modulation if any, linear."""

    def __init__(self, embed: PatchEmbed, channels: int, width: int, modulated: bool) -> None:
        super().__init__()
        self.patch, self.grid = embed.patch, embed.grid
        self.norm = nn.LayerNorm(width, elementwise_affine=not modulated, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width) if modulated else None
        self.linear = nn.Linear(width, math.prod(embed.patch) * channels)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """x [b, n, d], condition [b, d] (None without modulation) -> [b, c, *sizes]."""
        x = self.norm(x)
        if self.modulation is not None:
            x = modulate(x, *self.modulation(condition).unsqueeze(1).chunk(2, dim=-1))
        return unpatchify(self.linear(x), self.patch, self.grid)
