"""The transformers' linear layers, on a CPU in float32 by oneDNN's kernel where that is the faster one.

torch takes such products from MKL, which on AMD's processors uses vectors of 256 bits; oneDNN uses those of 512 bits, which on the fifth
generation of Zen halves the time. On Intel's the two are equally fast, and on others nothing was measured: there torch's choice stays. The
results differ by rounding.
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
from torch.utils.flop_counter import flop_registry, register_flop_formula

ONEDNN = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None
"""oneDNN's x W^T + b with a function applied before the result leaves the cache; what torch.compile's frozen graphs use. It has no
derivative of its own."""


def _slow_mkl() -> bool:
    """Whether this is a processor on which MKL was seen to be slow: AMD's family 26, which is Zen 5, with its vectors of 512 bits."""
    try:
        about = Path("/proc/cpuinfo").read_text()
    except OSError:
        about = platform.processor()
    zen5 = "AuthenticAMD" in about and re.search(r"family\s*:?\s*26\b", about, re.I) is not None
    return zen5 and torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


PREFERRED = ONEDNN is not None and _slow_mkl()
"""Whether plain products are oneDNN's here."""


class Linear(nn.Linear):
    """x W^T + b."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., k] -> [..., m]."""
        if not (PREFERRED and _plain(x, self)):
            return super().forward(x)
        if torch.is_inference_mode_enabled():
            return _onednn(x, self.weight, self.bias)
        found: Tensor = Product.apply(x.flatten(0, -2), self.weight, self.bias)
        return found.unflatten(0, x.shape[:-1])


class LinearGELU(Linear):
    """gelu(x W^T + b) with gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), its tanh form (Hendrycks & Gimpel 2016).

    In inference mode on a CPU in float32 it is one kernel of oneDNN's. With gradients GELU is torch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., k] -> [..., m]."""
        if ONEDNN is not None and _plain(x, self) and torch.is_inference_mode_enabled():
            return _onednn(x, self.weight, self.bias, "gelu", "tanh")
        return F.gelu(super().forward(x), approximate="tanh")


class Product(torch.autograd.Function):
    """x w^T + b of x [n, k], w [m, k] and b [m] or None, by oneDNN. Its derivatives are such products again, to any order:
    d/dx is g w, d/dw is g^T x, d/db the sum of g's rows, with g [n, m] the gradient of the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        for_x, for_w, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if for_w else None, w if for_x else None)
        ctx.save_for_forward(x, w)
        return _onednn(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        for_x, for_w, for_b = ctx.needs_input_grad
        return _product(g, w.t()) if for_x else None, _product(g.t(), x.t()) if for_w else None, g.sum(0) if for_b else None

    @staticmethod
    def jvp(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """Tangents; those that were not given come as zeros."""
        at_x, at_w = ctx.saved_tensors
        found = _product(x, at_w) + _product(at_x, w)
        return found if b is None else found + b


def _product(x: Tensor, w: Tensor) -> Tensor:
    """x w^T within a derivative. It may be taken under torch.func although the forward pass was not."""
    if torch._C._are_functorch_transforms_active():
        return x @ w.t()
    found: Tensor = Product.apply(x, w, None)
    return found


def _onednn(x: Tensor, w: Tensor, b: Tensor | None, then: str = "none", form: str = "") -> Tensor:
    assert ONEDNN is not None
    found: Tensor = ONEDNN(x, w, b, then, [], form)
    return found


def _plain(x: Tensor, layer: nn.Linear) -> bool:
    """Whether oneDNN's kernel takes these, and nothing follows them but autograd's own tape. What does not fit is torch's to refuse."""
    weight, bias = layer.weight, layer.bias
    return (
        not torch.compiler.is_compiling()  # first: what follows cannot be traced
        and type(x) is Tensor
        and type(weight) in (nn.Parameter, Tensor)
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (x, weight, bias) if t is not None)
        and x.dim() > 1
        and x.numel() > 0
        and x.shape[-1] == weight.shape[1]
        and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))  # the kernel knows no strides of a bias
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def _flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """For torch's FlopCounterMode: those of the product, as it counts any linear layer."""
    return 2 * math.prod(out_shape) * weight[-1]


if ONEDNN is not None and ONEDNN not in flop_registry:
    register_flop_formula(ONEDNN)(_flops)
