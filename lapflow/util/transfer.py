"""From the CPU to the device, without waiting."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(x: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """`x` on `device`, as `dtype` if given. From the CPU to a CUDA device by way of page-locked memory, so
    that the copy is queued and the CPU goes on: from ordinary memory the driver would first have the whole of
    it read. Elsewhere, and from a GPU to the CPU, which must wait for the numbers, `Tensor.to`."""
    if x.device.type == "cpu" and torch.device(device).type == "cuda":
        x = x.pin_memory()
    return x.to(device=device, dtype=x.dtype if dtype is None else dtype, non_blocking=x.device.type == "cpu")
