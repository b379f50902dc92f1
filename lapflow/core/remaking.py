"""Results that the backward pass makes again rather than find: those that cost little and fill much memory,
such as norms and activation functions (selective recomputation of activations; Korthikanti et al. 2022).

Autograd keeps what a layer was given. Where that is only the norm of something that is kept as well, `remade`
keeps how it was made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lapflow.util.autocast import autocast_dtype, autocast_in

P = ParamSpec("P")
R = TypeVar("R")

_remaking: ContextVar[bool] = ContextVar("remaking", default=False)


@contextmanager
def remaking() -> Iterator[None]:
    """Within it `remade` keeps no results."""
    token = _remaking.set(True)
    try:
        yield
    finally:
        _remaking.reset(token)


def is_remaking() -> bool:
    """Whether results are to be made again. Not where torch.compile looks on, whose graphs make again what is
    cheap in any case, nor under the transforms of torch.func, which allow no hooks."""
    looked_on = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return not looked_on and _remaking.get() and torch.is_grad_enabled()


def under_remaking(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, called within `remaking`."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        with remaking():
            return function(*args, **kwargs)

    return call


def remade(use: Callable[[Tensor], Tensor], make: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """use(make(*given)). Within `remaking` what `make` returns is not kept for the backward pass of `use`,
    which calls `make` again: with the same tensors, in the same autocast, so the gradient is the same to the
    bit.

    `make` must be a function of `given`, and of weights, alone. What it keeps for its own backward pass it
    keeps. What `use` changes in place is kept as it is then. The backward pass raises `RuntimeError` if
    `given`, or what `use` keeps, was changed in place since.
    """
    made = make(*given)
    if not is_remaking() or made.layout != torch.strided:
        return use(made)
    with saved_tensors_hooks(*_hooks(made, make, given)):
        return use(made)


@dataclass(frozen=True)
class _Kept:
    """A tensor that is kept, and how often it had been changed in place."""

    tensor: Tensor
    version: int

    def unchanged(self) -> Tensor:
        """The tensor. Raises `RuntimeError` if it was changed in place since, as autograd does for what it
        keeps itself."""
        if self.tensor._version != self.version:
            raise RuntimeError(
                "a tensor of the forward pass that the backward pass needs was changed in place (within "
                "`remaking`)"
            )
        return self.tensor


@dataclass(frozen=True)
class _View:
    """How a tensor lies in the storage of the result that is not kept."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


def _hooks(
    made: Tensor, make: Callable[..., Tensor], given: tuple[Tensor, ...]
) -> tuple[Callable[..., object], Callable[..., Tensor]]:
    # These hooks live as long as what they pack: they hold neither the result nor the graph behind what it is
    # made of. While they pack the result is there, and nothing else can lie in its storage.
    storage, kind, plain = (
        made.untyped_storage()._cdata,
        _kind(made),
        tuple(_Kept(x.detach(), x._version) for x in given),
    )
    device, dtype = made.device, autocast_dtype(made.device)

    def pack(x: Tensor) -> object:
        if x.layout == torch.strided and x.untyped_storage()._cdata == storage and _kind(x) == kind:
            return _View(tuple(x.shape), x.stride(), int(x.storage_offset()))
        return _Kept(x if x.is_leaf else x.detach(), x._version)

    def unpack(kept: object) -> Tensor:
        if isinstance(kept, _Kept):
            return kept.unchanged()
        assert isinstance(kept, _View)
        with torch.no_grad(), autocast_in(device, dtype):
            return make(*(x.unchanged() for x in plain)).as_strided(kept.shape, kept.stride, kept.offset)

    return pack, unpack


def _kind(x: Tensor) -> tuple[object, ...]:
    """What two tensors of one storage must have in common for one to be a view of the other's values."""
    return x._version, x.dtype, x.is_conj(), x.is_neg()
