"""torch.nn.functional.scaled_dot_product_attention: runs everywhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lapflow.core.attention import AttentionBackend


class SDPA(AttentionBackend):
    """PyTorch's own attention. It picks a fused kernel by itself (flash, memory-efficient or cuDNN on CUDA,
    flash on CPU)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def supports(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
    ) -> str | None:
        return None
