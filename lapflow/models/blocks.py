"""A transformer block over the tokens of all active scales: one expert per group of tokens, one attention
over all.

This is the mixture of transformers (Liang et al. 2024) as LapFlow uses it: every token-wise layer belongs to
an expert, only the attention is common. With one expert for all tokens the block is DiT's.

Shapes: b batch, n tokens, d width; a group is a run of tokens [b, n_g, d] with one expert: a scale, or all of
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lapflow.core.attention import AttentionBackend, Mask, scale_attention
from lapflow.models.layers import MLP, modulate

Modulation = tuple[Tensor, ...]


class Expert(nn.Module):
    """The token-wise layers of a pre-norm transformer block (the blocks of in-context conditioning)."""

    def __init__(self, width: int, hidden: int, affine: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=affine, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=affine, eps=1e-6)
        self.mlp = MLP(width, hidden)

    def modulations(self, condition: Tensor | None) -> Modulation:
        """condition [b, d] -> what `project` and `finish` need of it."""
        return ()

    def project(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Tokens [b, n, d] -> queries, keys and values [b, n, 3 d]."""
        return self.qkv(self.norm1(x))

    def finish(self, x: Tensor, attended: Tensor, modulation: Modulation) -> Tensor:
        """Tokens and what they attended to, both [b, n, d] -> the next tokens."""
        x = x + self.proj(attended)
        return x + self.mlp(self.norm2(x))


class ModulatedExpert(Expert):
    """The same under adaLN-zero: shift, scale and gate of both branches are linear in the condition, zero at
    first."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden, affine=False)
        self.modulation = nn.Linear(width, 6 * width)

    def modulations(self, condition: Tensor | None) -> Modulation:
        return self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)

    def project(self, x: Tensor, modulation: Modulation) -> Tensor:
        shift, scale, *_ = modulation
        return self.qkv(modulate(self.norm1(x), shift, scale))

    def finish(self, x: Tensor, attended: Tensor, modulation: Modulation) -> Tensor:
        _, _, gate1, shift, scale, gate2 = modulation
        x = torch.addcmul(x, gate1, self.proj(attended))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift, scale)))


class MaskedAttention:
    """A backend with a scale mask and a number of heads; shared by the blocks of a network, no parameters.

    An explicit backend that cannot run must say so before its kernel is called: the check is made here, once
    for each device, dtype and need of gradients.
    """

    def __init__(self, backend: AttentionBackend, mask: Mask, heads: int) -> None:
        self.backend, self.mask, self.heads = backend, mask, heads
        self._passed: dict[tuple[torch.device, torch.dtype, int, bool], str] = {}

    def __call__(
        self, groups: Sequence[Tensor], lengths: tuple[int, ...], given: Tensor | None = None
    ) -> list[Tensor]:
        """Groups of qkv [b, n_g, 3 d], one for each scale of these lengths, coarse to fine, or one for all ->
        [b, n_g, d] each. `given` [b, m, 2 d] are keys and values that all see."""
        split = len(groups) == 1 and self.mask != "none"
        parts = groups[0].split(lengths, dim=1) if split else groups
        q, k, v = zip(*(self._heads(qkv, 3) for qkv in parts))
        beside = None
        if given is not None:
            keys, values = self._heads(given, 2)
            beside = keys, values
        _require(self, q[0].device, q[0].dtype, q[0].shape[-1], q[0].requires_grad)
        attended = [
            x.transpose(1, 2).flatten(2) for x in scale_attention(self.backend, q, k, v, self.mask, beside)
        ]
        return [torch.cat(attended, dim=1)] if split and len(attended) > 1 else attended

    def cross(self, q: Tensor, given: Tensor) -> Tensor:
        """Queries [b, n, d] to keys and values [b, m, 2 d] -> [b, n, d], all seen."""
        (queries,), (keys, values) = self._heads(q, 1), self._heads(given, 2)
        _require(self, queries.device, queries.dtype, queries.shape[-1], queries.requires_grad)
        return self.backend.attend(queries, keys, values).transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return tuple(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in x.chunk(parts, dim=-1))

    def require(self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool) -> str:
        """The kernel that runs there. Raises `BackendError` unless the backend can run."""
        key = (device, dtype, head_dim, needs_grad)
        if key not in self._passed:
            self._passed[key] = self.backend.require(*key)
        return self._passed[key]


@torch.compiler.assume_constant_result
def _require(
    attention: MaskedAttention, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
) -> bool:
    """`require`, which torch.compile runs once while tracing instead of tracing it."""
    attention.require(device, dtype, head_dim, needs_grad)
    return True


class Block(nn.Module):
    """Called once a step with the tokens of every active scale, so that it may be wrapped as one unit."""

    def __init__(
        self,
        experts: dict[str, Expert],
        attention: MaskedAttention,
        cross: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleDict(experts)
        self.attention = attention
        self.cross = None if cross is None else nn.ModuleDict(cross)

    def forward(
        self,
        groups: tuple[Tensor, ...],
        conditions: tuple[Tensor | None, ...],
        names: tuple[str, ...],
        lengths: tuple[int, ...],
        given: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """groups of tokens [b, n_g, d] with the `names` of their experts, coarse to fine; the condition of
        each, [b, d] or None; `lengths`, the tokens of each scale; `given`, keys and values [b, m, 2 d] that
        all see, or for cross-attention tokens [b, m, d] -> the next groups."""
        if self.cross is not None:
            groups = tuple(self.cross[name](x, given) for name, x in zip(names, groups))
            given = None
        experts = [cast(Expert, self.experts[name]) for name in names]
        modulations = [expert.modulations(c) for expert, c in zip(experts, conditions)]
        projected = [expert.project(x, m) for expert, x, m in zip(experts, groups, modulations)]
        attended = self.attention(projected, lengths, given)
        return tuple(
            expert.finish(x, part, m) for expert, x, part, m in zip(experts, groups, attended, modulations)
        )
