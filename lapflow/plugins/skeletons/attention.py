"""Attention as its formula, some queries at a time."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.attention import AttentionBackend


class Skeleton(AttentionBackend):
    """softmax(q k^T / sqrt d) v in blocks of `block` queries, so that no more than so many rows of weights
    are held."""

    def __init__(self, *, block: Annotated[int, Field(ge=1, description="queries at a time")] = 256) -> None:
        self.block = block

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = (
            k.transpose(-1, -2).float() if q.dtype in (torch.float16, torch.bfloat16) else k.transpose(-1, -2)
        )
        scale = q.shape[-1] ** -0.5
        rows = [
            torch.softmax(part.to(keys.dtype) @ keys * scale, -1) @ v.to(keys.dtype)
            for part in q.split(self.block, dim=-2)
        ]
        return torch.cat(rows, dim=-2).to(q.dtype)

    def supports(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
    ) -> str | None:
        return None
