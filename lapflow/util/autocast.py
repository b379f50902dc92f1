"""torch's autocast on any device, also on one that has none, such as meta."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The low precision in which products of float32 tensors are computed; None without autocast."""
    on = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


def autocast_in(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """A context in which `autocast_dtype` is this."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def in_own_dtype(x: Tensor) -> AbstractContextManager[object]:
    """A context in which filters keep the dtype of `x`: autocast's convolutions would round the state."""
    return autocast_in(x.device, None)
