"""The state of a multi-scale flow: a mapping from scale index to tensor, iterated coarse to fine.

`{k: Tensor[b, c_k, *sizes_k]}`, with one to three axes of sizes, holds the active scales only; k = 0 is the
finest scale, K-1 the coarsest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

State = dict[int, Tensor]
StateView = Mapping[int, Tensor]
"""A state, or other tensors by scale, that is only read."""

Shape = tuple[int, ...]
"""The shape (c, *sizes) of a sample, with one to three axes of sizes."""

Device = torch.device | str

Times = Tensor | StateView
"""One time for all scales, a scalar or [b]; or a time of its own for each, {k: [b]}."""


def map_state(function: Callable[..., Tensor], first: StateView, *rest: StateView) -> State:
    """`{k: function(first[k], ...)}` over the scales of `first`, in its order."""
    return {k: function(x, *(other[k] for other in rest)) for k, x in first.items()}


def time_of(t: Times, scale: int) -> Tensor:
    """The time of one scale."""
    return t if isinstance(t, Tensor) else t[scale]


def map_times(function: Callable[[Tensor], Tensor], t: Times) -> Times:
    """`function` of the shared time, or of each scale's."""
    return function(t) if isinstance(t, Tensor) else {k: function(x) for k, x in t.items()}


def take_rows(state: StateView, index: Tensor | slice) -> State:
    """The samples `index` of a batch, at every scale."""
    return map_state(lambda x: x[index], state)


def batch_size(state: StateView) -> int:
    return next(iter(state.values())).shape[0]


def expand_time(t: Tensor, like: Tensor) -> Tensor:
    """`t[b]` (or a scalar) shaped to multiply `like[b, ...]`."""
    return t.reshape(-1, *([1] * (like.ndim - 1))) if t.ndim else t


def scalar_time(t: float) -> Tensor:
    """A time as the float64 scalar that paths take."""
    return torch.tensor(t, dtype=torch.float64, device="cpu")
