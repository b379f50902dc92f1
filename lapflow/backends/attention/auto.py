"""The first backend that can run."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from lapflow.backends.attention.flash import Flash
from lapflow.backends.attention.flex import Flex
from lapflow.backends.attention.sdpa import SDPA
from lapflow.backends.attention.xformers import Xformers
from lapflow.core.attention import AttentionBackend

ORDER: tuple[type[AttentionBackend], ...] = (Flash, Xformers, SDPA, Flex)

_log = logging.getLogger("lapflow")


class Auto(AttentionBackend):
    """Takes the first of flash, xformers, sdpa, flex that can run for a device, dtype, head dimension and
    need of gradients; logs once for each such case which it took."""

    def __init__(self) -> None:
        self._candidates = tuple(candidate() for candidate in ORDER)
        self._taken: dict[tuple[torch.device, torch.dtype, int, bool], int] = {}

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        needs_grad = q.requires_grad or k.requires_grad or v.requires_grad
        return self._candidates[_choose(self, q.device, q.dtype, q.shape[-1], needs_grad)].attend(q, k, v)

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
        return self._candidates[_choose(self, device, dtype, head_dim, needs_grad)]

    def _first(self, key: tuple[torch.device, torch.dtype, int, bool]) -> int:
        """The index of the first candidate that supports this case."""
        if key not in self._taken:
            self._taken[key] = next(
                i for i, candidate in enumerate(self._candidates) if candidate.supports(*key) is None
            )
            name, case = (
                type(self._candidates[self._taken[key]]).__name__,
                f"{key[0]}, {str(key[1]).removeprefix('torch.')}",
            )
            _log.info(
                "attention=auto takes %s (%s, head dimension %d, %s gradients)",
                name,
                case,
                key[2],
                "with" if key[3] else "without",
            )
        return self._taken[key]


@torch.compiler.assume_constant_result
def _choose(auto: Auto, device: torch.device, dtype: torch.dtype, head_dim: int, needs_grad: bool) -> int:
    """`_first`, which torch.compile runs once while tracing instead of tracing it; only plain values may come
    out of it."""
    return auto._first((device, dtype, head_dim, needs_grad))
