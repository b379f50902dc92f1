"""FlexAttention (Dong et al. 2024), torch.nn.attention.flex_attention, without score or mask functions."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from lapflow.core.attention import AttentionBackend
from lapflow.core.errors import BackendError


class Flex(AttentionBackend):
    """Compiled on its first call on CUDA; on CPU it runs eagerly, forward only, to try things out."""

    def __init__(self) -> None:
        self._function, self._failure = None, None
        try:
            from torch.nn.attention.flex_attention import flex_attention
        except Exception as error:
            self._failure = f"a torch with FlexAttention ({error})"
        else:
            self._function = flex_attention

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._function is None:
            raise BackendError("the attention backend Flex cannot run here", expected=self._failure)
        if torch.compiler.is_compiling():  # a compiled caller takes it in
            return self._function(q, k, v)
        if q.device.type != "cpu":
            return _compiled(self._function)(q, k, v)
        with warnings.catch_warnings():
            # It warns, once a process, that the eager form is slow: known, and the only one chosen on CPU.
            warnings.filterwarnings(
                "ignore", message="flex_attention called without torch.compile", category=UserWarning
            )
            return self._function(q, k, v)

    def supports(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
    ) -> str | None:
        if self._failure:
            return self._failure
        if device.type == "cpu":
            return "no gradients (FlexAttention has no backward on CPU)" if needs_grad else None
        if device.type != "cuda":
            return "a CUDA device, or the CPU without gradients"
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return "float32, float16 or bfloat16"
        if head_dim < 16:
            return "a head dimension of at least 16; use fewer heads"
        return None


@functools.cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function)
