"""Attention kernels: `SDPA`, `Flash`, `Xformers`, `Flex`, and `Auto`, which takes the first that can run.

A kernel's package is first touched when its backend is made.
"""

from __future__ import annotations

import functools
import logging
import warnings
from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lapflow.core.attention import AttentionBackend
from lapflow.core.errors import BackendError

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
Case = tuple[torch.device, torch.dtype, int, bool]
"""Where a kernel shall run: device, dtype, head dimension, whether gradients are needed."""

_log = logging.getLogger("lapflow")


def resolve(choice: str | AttentionBackend) -> AttentionBackend:
    """A backend from its name (built in, registered, or a plugin's); an instance passes through."""
    if isinstance(choice, AttentionBackend):
        return choice
    from lapflow.plugins.registry import create

    return create("attention", {"name": choice})


class SDPA(AttentionBackend):
    """torch.nn.functional.scaled_dot_product_attention: runs everywhere. It picks a fused kernel by itself
    (flash, memory-efficient or cuDNN on CUDA, flash on CPU)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def supports(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
    ) -> str | None:
        return None


class Imported(AttentionBackend):
    """A kernel whose import may fail: that is tried when the backend is made, and is then the reason why it
    cannot run."""

    missing: str
    """The reason, with a place for the error."""

    def __init__(self) -> None:
        self._function: Kernel | None = None
        self._failure: str | None = None
        try:
            self._function = self._import()
        except Exception as error:  # a build for another torch or CUDA fails with OSError or RuntimeError too
            self._failure = self.missing.format(error)

    @staticmethod
    @abstractmethod
    def _import() -> Kernel:
        """The kernel."""

    def kernel(self) -> Kernel:
        """The kernel that was imported. Raises `BackendError` if it could not be."""
        if self._function is None:
            name = type(self).__name__
            raise BackendError(f"the attention backend {name} cannot run here", expected=self._failure)
        return self._function

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # The packages want [b, n, h, d]: views, no copies.
        return self.kernel()(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


class Flash(Imported):
    """FlashAttention 2 (Dao 2023), `flash_attn_func` of the package `flash_attn`: CUDA, half precision, head
    dimensions up to 256."""

    missing = "the package flash_attn, which cannot be imported ({}): pip install 'lapflow[flash]'"

    @staticmethod
    def _import() -> Kernel:
        from flash_attn import flash_attn_func

        return flash_attn_func

    def supports(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
    ) -> str | None:
        if self._failure or device.type != "cuda":
            return self._failure or "a CUDA device (FlashAttention has no other kernels)"
        if dtype not in (torch.float16, torch.bfloat16):
            return (
                "float16 or bfloat16 (FlashAttention has no wider kernels); train and sample under bf16 "
                "precision"
            )
        return "a head dimension of at most 256; use more heads" if head_dim > 256 else None


class Xformers(Imported):
    """Memory-efficient attention (Lefaudeux et al. 2022; Rabe & Staats 2021),
    `xformers.ops.memory_efficient_attention`: CUDA, float32 and half precision."""

    missing = "the package xformers, which cannot be imported ({}): pip install 'lapflow[xformers]'"

    @staticmethod
    def _import() -> Kernel:
        from xformers.ops import memory_efficient_attention

        return memory_efficient_attention

    def supports(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
    ) -> str | None:
        if self._failure or device.type != "cuda":
            return self._failure or "a CUDA device (xFormers has no operator for others)"
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            return "float32, float16 or bfloat16"
        return "a head dimension that is a multiple of 8" if head_dim % 8 else None


class Flex(Imported):
    """FlexAttention (Dong et al. 2024), torch.nn.attention.flex_attention, without score or mask functions.
    Compiled on its first call on CUDA; on CPU it runs eagerly, forward only, to try things out."""

    missing = "a torch with FlexAttention ({})"

    @staticmethod
    def _import() -> Kernel:
        from torch.nn.attention.flex_attention import flex_attention

        return flex_attention

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        function = self.kernel()
        if torch.compiler.is_compiling():  # a compiled caller takes it in
            return function(q, k, v)
        if q.device.type != "cpu":
            return _compiled(function)(q, k, v)
        with warnings.catch_warnings():
            # It warns, once a process, that the eager form is slow: known, and the only one chosen on CPU.
            warnings.filterwarnings(
                "ignore", message="flex_attention called without torch.compile", category=UserWarning
            )
            return function(q, k, v)

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
        return "a head dimension of at least 16; use fewer heads" if head_dim < 16 else None


@functools.cache
def _compiled(function: Kernel) -> Kernel:
    return torch.compile(function)


ORDER: tuple[type[AttentionBackend], ...] = (Flash, Xformers, SDPA, Flex)


class Auto(AttentionBackend):
    """Takes the first of flash, xformers, sdpa, flex that can run for a device, dtype, head dimension and
    need of gradients; logs once for each such case which it took."""

    def __init__(self) -> None:
        self._candidates = tuple(candidate() for candidate in ORDER)
        self._taken: dict[Case, int] = {}

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        needs_grad = q.requires_grad or k.requires_grad or v.requires_grad
        return self.choose(q.device, q.dtype, q.shape[-1], needs_grad).attend(q, k, v)

    def supports(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
    ) -> str | None:
        return None  # SDPA, one of the candidates, runs everywhere

    def require(self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool) -> str:
        return self.choose(device, dtype, head_dim, needs_grad).require(device, dtype, head_dim, needs_grad)

    def choose(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool
    ) -> AttentionBackend:
        """The backend that `attend` uses in this case."""
        return self._candidates[_first(self, device, dtype, head_dim, needs_grad)]


@torch.compiler.assume_constant_result
def _first(auto: Auto, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool) -> int:
    """The index of the first candidate that supports this case. torch.compile runs this once while tracing
    instead of tracing it; only plain values may come out of it."""
    case = device, dtype, head_dim, needs_grad
    if case not in auto._taken:
        taken = next(i for i, one in enumerate(auto._candidates) if one.supports(*case) is None)
        auto._taken[case] = taken
        _log.info(
            "attention=auto takes %s (%s, %s, head dimension %d, %s gradients)",
            type(auto._candidates[taken]).__name__,
            device,
            str(dtype).removeprefix("torch."),
            head_dim,
            "with" if needs_grad else "without",
        )
    return auto._taken[case]
