"""Contract: an attention kernel. And the scale mask: a list of unmasked calls, never a tensor.

Shapes: b batch, h heads, n queries, m keys, d head dimension.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.errors import BackendError

Mask = Literal["none", "self", "causal"]


class AttentionBackend(Component):
    """softmax(q k^T / sqrt(d)) v without any mask."""

    kind = "attention"

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [b, h, n, d], k and v [b, h, m, d], possibly strided views -> [b, h, n, d] in q's dtype."""

    @abstractmethod
    def supports(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
    ) -> str | None:
        """None if this backend can run there; otherwise the reason why it cannot, in words for the user."""

    def require(self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool) -> str:
        """The name of the kernel that runs there. Raises `BackendError` with the reason if none can."""
        if reason := self.supports(device, dtype, head_dim, needs_grad):
            gradients = "with" if needs_grad else "without"
            raise BackendError(
                f"the attention backend {type(self).__name__} cannot run here",
                got=f"device {device.type}, {str(dtype).removeprefix('torch.')}, head dimension {head_dim}, "
                f"{gradients} gradients",
                expected=reason,
                remedy="choose attention=auto, which takes the first that can",
            )
        return type(self).__name__


def visible(mask: Mask, lengths: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """The unmasked calls that make up the scale mask: (query start, query stop, key start, key stop).

    `lengths` are the tokens of each active scale, coarse to fine, which stand in this order in one sequence.
    Under `causal` scale k sees k' >= k, itself and the coarser ones: a prefix of the keys. Under `self` only
    itself; under `none` everything, in one call.
    """
    total = sum(lengths)
    if mask == "none":
        return [(0, total, 0, total)]
    calls, start = [], 0
    for length in lengths:
        stop = start + length
        calls.append((start, stop, 0 if mask == "causal" else start, stop))
        start = stop
    return calls


def scale_attention(
    backend: AttentionBackend,
    q: Sequence[Tensor],
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    mask: Mask,
    given: tuple[Tensor, Tensor] | None = None,
) -> list[Tensor]:
    """Attention among the tokens of all active scales under the scale mask: q, k and v of each scale [b, h,
    n_k, d], coarse to fine -> the same shapes. All see `given`, keys and values [b, h, m, d].

    Exact: each query's softmax runs over exactly the keys its scale may see, and the masked products are
    never made. Neither queries nor results are ever joined; the keys of the scales seen are.
    """
    first = () if given is None else (given,)
    if mask == "none":
        keys, values = _join((*first, *zip(k, v)))
        return [backend.attend(queries, keys, values) for queries in q]
    outputs, seen = [], first
    for queries, own in zip(q, zip(k, v)):
        # Under `causal` joined to what was joined: a slice of all keys would make the backward pass fill the
        # rest with zeros and add it up.
        seen = (_join((*(seen if mask == "causal" else first), own)),)
        outputs.append(backend.attend(queries, *seen[0]))
    return outputs


def _join(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pairs of keys and values, one after another, as one."""
    if len(pairs) == 1:
        return pairs[0]
    keys, values = zip(*pairs)
    return torch.cat(keys, dim=2), torch.cat(values, dim=2)


def attention_pairs(lengths: Sequence[int], mask: Mask) -> int:
    """Query-key pairs by scale mask: none (sum n)^2, causal sum_k n_k sum_(k'>=k) n_k', self sum n_k^2."""
    return sum((b - a) * (d - c) for a, b, c, d in visible(mask, lengths))
