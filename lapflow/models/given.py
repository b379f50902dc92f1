"""Tokens that are given, such as a caption's: a group before the coarsest scale, with experts of its own and
no target.

The group reads itself alone, under every mask, and every scale reads it. It is not modulated by time, so its
keys and values are those of the sample: made once, and kept for all evaluations (`Backbone.prepare`).

Shapes: b batch, m tokens given, n tokens of a scale, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from lapflow.core.condition import Part, Tokens, TokensSpec
from lapflow.models.blocks import Expert, MaskedAttention


@dataclass(frozen=True)
class Prepared(Part):
    """What a network made of a `Tokens` part: keys and values {layer: [b, m, 2 d]}. Its null was made with
    it, if it is wanted."""

    value: Mapping[int, Tensor]

    def drop(self, rows: Tensor) -> Self:
        raise AssertionError("a condition is joined to its null before a network prepares it")


class TokenEmbedder(nn.Module):
    """Ids by a table, or embeddings by a linear layer, and a learned position; `null` stands for none
    given."""

    def __init__(self, spec: TokensSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.table = nn.Embedding(spec.vocabulary, width) if spec.vocabulary else None
        self.proj = nn.Linear(spec.width, width) if spec.width else None
        self.position = nn.Parameter(torch.empty(spec.length, width))
        self.null = nn.Parameter(torch.empty(width))

    def forward(self, part: Tokens | None, like: Tensor) -> Tensor:
        """The part, or None for nothing given -> [b, m, d]. `like` [b, ...] gives the batch size."""
        if part is None:
            return (self.null + self.position).expand(len(like), -1, -1)
        if self.table is not None:
            x = self.table(part.value)
        else:
            assert self.proj is not None
            x = self.proj(part.value.to(self.position.dtype))
        return torch.where(part.given[:, None, None], x, self.null) + self.position

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for weight in (self.position, self.null, *([] if self.table is None else [self.table.weight])):
            nn.init.normal_(weight, std=0.02)


class TokenGroup(nn.Module):
    """Embedded tokens -> the keys and values of every layer. The last layer's are its last word: nothing
    comes of the group but what the scales read, so that layer has no queries and no MLP."""

    def __init__(self, attention: MaskedAttention, depth: int, width: int, hidden: int) -> None:
        super().__init__()
        self.attention = attention
        self.layers = nn.ModuleList(Expert(width, hidden) for _ in range(depth - 1))
        self.norm, self.last = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[b, m, d] -> keys and values [b, m, 2 d] of each layer."""
        found = []
        for layer in self.layers:
            assert isinstance(layer, Expert)
            qkv = layer.project(x, ())
            found.append(qkv[..., x.shape[-1] :])
            (attended,) = self.attention([qkv], (x.shape[1],))
            x = layer.finish(x, attended, ())
        return [*found, self.last(self.norm(x))]


class CrossAttention(nn.Module):
    """x + proj(attention of x to the tokens given), before the block's own attention; zero at first."""

    def __init__(self, width: int, heads: int, attention: MaskedAttention) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.norm, self.norm_given = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.query, self.given = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x [b, n, d], tokens [b, m, d] -> [b, n, d]."""
        q = self.query(self.norm(x))
        return x + self.proj(self.attention.cross(q, self.given(self.norm_given(tokens))))
