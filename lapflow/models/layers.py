"""The layers of a diffusion transformer around its blocks (DiT, Peebles & Xie 2023).

Shapes: b batch, n tokens of a scale, d width, c channels, p patch size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lapflow.core.decomposition import Band
from lapflow.core.errors import ConfigError
from lapflow.models.positions import Grid, position_embedding


def patchify(x: Tensor, patch: int) -> Tensor:
    """[b, c, h, w] -> [b, (h/p)(w/p), c p p], row by row."""
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpatchify(tokens: Tensor, patch: int, grid: Grid) -> Tensor:
    """[b, rows * columns, p p c] -> [b, c, rows p, columns p]. Channels come last in a token, as in DiT's
    final layer."""
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", p=patch, q=patch, h=grid[0], w=grid[1])


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, with x [b, n, d], shift and scale [b, 1, d]."""
    return torch.addcmul(shift, x, 1 + scale)


class PatchEmbed(nn.Module):
    """The patches of one scale as tokens, with their positions."""

    position: Tensor

    def __init__(self, band: Band, patch: int, width: int, finest: Grid) -> None:
        super().__init__()
        self.patch, self.finest = patch, finest
        self.grid = (band.height // patch, band.width // patch)
        self.proj = nn.Linear((band.channels + band.condition) * patch * patch, width)
        self.register_buffer("position", position_embedding(width, self.grid, finest), persistent=False)

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] -> [b, n, d]."""
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
    """A table of num_classes + 1 rows; the last one, index num_classes, stands for no class."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, width)

    def forward(self, labels: Tensor | None, like: Tensor) -> Tensor:
        """labels [b], or None for no class -> [b, d]. `like` [b, ...] gives batch size and device."""
        if labels is None:
            labels = torch.full((like.shape[0],), self.num_classes, dtype=torch.int64, device=like.device)
        return self.table(labels)


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
        self.linear = nn.Linear(width, embed.patch**2 * channels)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """x [b, n, d], condition [b, d] (None without modulation) -> [b, c, h, w]."""
        x = self.norm(x)
        if self.modulation is not None:
            x = modulate(x, *self.modulation(condition).unsqueeze(1).chunk(2, dim=-1))
        return unpatchify(self.linear(x), self.patch, self.grid)


def refuse_labels() -> None:
    """Raises the `ConfigError` for labels given to an unconditional network."""
    raise ConfigError(
        "labels were given to an unconditional network",
        got="num_classes 0",
        expected="no labels, or num_classes > 0",
    )
