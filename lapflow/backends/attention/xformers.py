"""Memory-efficient attention of xFormers (Lefaudeux et al. 2022; Rabe & Staats 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from lapflow.core.attention import AttentionBackend
from lapflow.core.errors import BackendError


class Xformers(AttentionBackend):
    """`xformers.ops.memory_efficient_attention`: CUDA, float32 and half precision."""

    def __init__(self) -> None:
        self._function, self._failure = None, None
        try:
            from xformers.ops import memory_efficient_attention
        except Exception as error:  # a build for another torch or CUDA fails with OSError or RuntimeError too
            self._failure = (
                f"the package xformers, which cannot be imported ({error}): pip install 'lapflow[xformers]'"
            )
        else:
            self._function = memory_efficient_attention

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._function is None:
            raise BackendError("the attention backend Xformers cannot run here", expected=self._failure)
        # The package wants [b, n, h, d]: views, no copies.
        return self._function(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

    def supports(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
    ) -> str | None:
        if self._failure:
            return self._failure
        if device.type != "cuda":
            return "a CUDA device (xFormers has no operator for others)"
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return "float32, float16 or bfloat16"
        if head_dim % 8:
            return "a head dimension that is a multiple of 8"
        return None
