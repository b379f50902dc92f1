"""The transformers' linear layers, on a CPU in float32 by oneDNN's kernels where those are the faster ones.

torch takes such products from MKL, which on AMD's processors uses vectors of 256 bits; oneDNN uses those of
512 bits, which on the fifth generation of Zen halves the time. On Intel's the two are equally fast, and on
others nothing was measured: there torch's choice stays. The results differ by rounding.

oneDNN's kernel has no derivative of its own (under torch.func it would say that it is 0). It is called as it
is in inference mode, where none can be asked for, and else by `Product`, which has one. And oneDNN keeps what
it prepares for each shape, megabytes for each: a sampling has few shapes, but training may draw another
number of images at every step, so `Product` cuts its rows into pieces of few sizes.
"""

from __future__ import annotations

import math
import platform
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import flop_registry, register_flop_formula

ONEDNN = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None
"""oneDNN's x W^T + b with a function applied before the result leaves the cache; what torch.compile's frozen
graphs use. It has no derivative of its own."""


def _slow_mkl() -> bool:
    """Whether this is a processor on which MKL was seen to be slow: AMD's family 26, which is Zen 5, with its
    vectors of 512 bits."""
    try:
        about = Path("/proc/cpuinfo").read_text()
    except OSError:
        about = platform.processor()
    zen5 = "AuthenticAMD" in about and re.search(r"family\s*:?\s*26\b", about, re.I) is not None
    return zen5 and torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


PREFERRED = ONEDNN is not None and _slow_mkl()
"""Whether plain products are oneDNN's here."""


LARGEST, SMALLEST = 8192, 256
"""Rows of a piece of `Product`: all powers of two between; what is left is torch's to multiply. Each size is
one more that oneDNN prepares for and keeps."""
LEAST = 2**24
"""Multiply-adds of a `Product`: with fewer, torch's was the faster one."""
TENSORS = {Tensor, nn.Parameter}
"""What a `Product` is made of; of subclasses nothing is known."""


class Linear(nn.Linear):
    """x W^T + b."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., k] -> [..., m]."""
        return _linear(x, self.weight, self.bias)


def gelu(x: Tensor) -> Tensor:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the tanh form of GELU (Hendrycks & Gimpel 2016)."""
    return F.gelu(x, approximate="tanh")


class LinearGELU(Linear):
    """gelu(x W^T + b); in inference mode on a CPU in float32 one kernel of oneDNN's, on every processor."""

    def forward(self, x: Tensor, activated: bool = True) -> Tensor:
        """[..., k] -> [..., m]; not `activated`, x W^T + b alone."""
        if not activated:
            return super().forward(x)
        weight, bias = self.weight, self.bias
        if ONEDNN is not None and _plain(x, weight, bias) and torch.is_inference_mode_enabled():
            return _onednn(x, weight, bias, "gelu", "tanh")
        return gelu(_linear(x, weight, bias))


class Product(torch.autograd.Function):
    """x w^T + b of x [n, k], w [m, k] and b [m] or None, by oneDNN, n in pieces.

    d/dx is g w, d/dw is g^T x, d/db the sum of g's rows, with g [n, m] the gradient of the result. Where
    derivatives are taken of these in their turn, of either kind or under torch.func, they are torch's
    products. As any such function it makes the gradients of all inputs that require one, whichever were asked
    for.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        for_x, for_w, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if for_w else None, w if for_x else None)
        ctx.save_for_forward(x, w)
        return _rows(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        for_x, for_w, for_b = ctx.needs_input_grad
        last = (
            _unseen() and not _dispatched() and not torch.is_grad_enabled() and forward_ad._current_level < 0
        )
        by_rows, over_rows = (_rows, _over_rows) if last else (lambda g, v: g @ v.t(), lambda g, x: g.t() @ x)
        return (
            by_rows(g, w.t()) if for_x else None,
            over_rows(g, x) if for_w else None,
            g.sum(0) if for_b else None,
        )

    @staticmethod
    def jvp(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """Tangents; those that were not given come as zeros."""
        at_x, at_w = ctx.saved_tensors
        found = at_x @ w.t() + x @ at_w.t()
        return found if b is None else found + b


def _rows(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """x w^T + b, x [n, k] cut into pieces."""
    sizes = _pieces(len(x))
    if len(sizes) == 1:
        return _onednn(x, w, b)
    found = x.new_empty(len(x), len(w))
    for part, into in zip(x.split(sizes), found.split(sizes)):
        into.copy_(_onednn(part, w, b) if len(part) >= SMALLEST else F.linear(part, w, b))
    return found


def _over_rows(g: Tensor, x: Tensor) -> Tensor:
    """g^T x, the sum over n of g [n, m] and x [n, k] cut into pieces.

    oneDNN is slow with other strides than those of dense rows, and it copies the one that it is given
    transposed as rows. So where that is less to copy it makes x^T g, which is transposed.
    """
    (n, m), k = g.shape, x.shape[1]
    if n * k + k * m < n * m:
        return _sum_over_rows(x, g).t().contiguous()
    return _sum_over_rows(g, x)


def _sum_over_rows(a: Tensor, b: Tensor) -> Tensor:
    sizes = _pieces(len(a))
    parts = zip(a.contiguous().split(sizes), b.contiguous().split(sizes))
    found = [_onednn(a.t(), b.t()) if len(a) >= SMALLEST else a.t() @ b for a, b in parts]
    return sum(found[1:], found[0])


def _pieces(n: int) -> list[int]:
    """n >= SMALLEST as a sum: of powers of two from LARGEST down to SMALLEST, each as often as it fits, and
    of what is left."""
    sizes = [LARGEST] * (n // LARGEST)
    left = n % LARGEST
    while left >= SMALLEST:
        sizes.append(1 << (left.bit_length() - 1))
        left -= sizes[-1]
    return [*sizes, left] if left else sizes


def _linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """x w^T + b of x [..., k], by whose kernel it is the faster one."""
    if not (PREFERRED and _plain(x, w, b)):
        return F.linear(x, w, b)
    if torch.is_inference_mode_enabled():
        return _onednn(x, w, b)
    n = math.prod(x.shape[:-1])
    if n < SMALLEST or n * w.numel() < LEAST or _dispatched() or not {type(x), type(w)} <= TENSORS:
        return F.linear(x, w, b)
    found: Tensor = Product.apply(x.flatten(0, -2), w, b)
    return found.unflatten(0, x.shape[:-1])


def _onednn(x: Tensor, w: Tensor, b: Tensor | None = None, then: str = "none", form: str = "") -> Tensor:
    assert ONEDNN is not None
    found: Tensor = ONEDNN(x, w, b, then, [], form)
    return found


def _unseen() -> bool:
    """Whether no compiler, tracer or transform looks on: they know torch's layer."""
    return (
        not torch.compiler.is_compiling()  # first: what follows cannot be traced
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
    )


def _dispatched() -> bool:
    """Whether a mode sees each operation: one may record it, and differentiate what it recorded."""
    return bool(torch._C._len_torch_dispatch_stack())


def _plain(x: Tensor, w: Tensor, b: Tensor | None) -> bool:
    """Whether oneDNN's kernel takes these. What does not fit is torch's to refuse."""
    return (
        _unseen()
        and not torch.is_autocast_enabled("cpu")
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (x, w, b) if t is not None)
        and x.dim() > 0
        and w.numel() > 0
        and x.shape[-1] == w.shape[1]
        and w.is_contiguous()  # of other strides oneDNN makes products five hundred times as slowly
        and (
            b is None or (b.shape == w.shape[:1] and b.is_contiguous())
        )  # the kernel knows no strides of a bias
    )


def _flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """For torch's FlopCounterMode: those of the product, as it counts any linear layer."""
    return 2 * math.prod(out_shape) * weight[-1]


if ONEDNN is not None and ONEDNN not in flop_registry:
    register_flop_formula(ONEDNN)(_flops)
