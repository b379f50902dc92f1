"""FlashAttention 2 (Dao 2023), the `flash_attn` package."""

from __future__ import annotations

import torch
from torch import Tensor

from lapflow.core.attention import AttentionBackend
from lapflow.core.errors import BackendError


class Flash(AttentionBackend):
    """`flash_attn_func`: CUDA, half precision, head dimensions up to 256."""

    def __init__(self) -> None:
        self._function, self._failure = None, None
        try:
            from flash_attn import flash_attn_func
        except Exception as error:  # a build for another torch or CUDA fails with OSError or RuntimeError too
            self._failure = (
                f"the package flash_attn, which cannot be imported ({error}): pip install 'lapflow[flash]'"
            )
        else:
            self._function = flash_attn_func

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._function is None:
            raise BackendError("the attention backend Flash cannot run here", expected=self._failure)
        # The package wants [b, n, h, d]: views, no copies.
        return self._function(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

    def supports(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
    ) -> str | None:
        if self._failure:
            return self._failure
        if device.type != "cuda":
            return "a CUDA device (FlashAttention has no other kernels)"
        if dtype not in (torch.float16, torch.bfloat16):
            return (
                "float16 or bfloat16 (FlashAttention has no wider kernels); train and sample under bf16 "
                "precision"
            )
        if head_dim > 256:
            return "a head dimension of at most 256; use more heads"
        return None
