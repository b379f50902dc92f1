"""The transformers' linear layers; in inference mode on a CPU in float32 by oneDNN's kernel where that is the faster one.

torch takes such products from MKL, which on AMD's processors uses vectors of 256 bits; oneDNN uses those of 512 bits, which on the fifth
generation of Zen halves the time. On Intel's the two are equally fast, and on others nothing was measured: there torch's choice stays. The
results differ by rounding.

Only in inference mode: the kernel has no derivative of its own (under torch.func it would say that it is 0), and oneDNN keeps what it
prepares for each shape, megabytes for each. A sampling has few shapes, while training may draw another number of images at every step.
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
        return _onednn(self, x) if PREFERRED and _plain(self, x) else super().forward(x)


class LinearGELU(Linear):
    """gelu(x W^T + b) with gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), its tanh form (Hendrycks & Gimpel 2016).

    In inference mode on a CPU in float32 it is one kernel of oneDNN's, on every processor.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., k] -> [..., m]."""
        if ONEDNN is not None and _plain(self, x):
            return _onednn(self, x, "gelu", "tanh")
        return F.gelu(super().forward(x), approximate="tanh")


def _onednn(layer: nn.Linear, x: Tensor, then: str = "none", form: str = "") -> Tensor:
    assert ONEDNN is not None
    found: Tensor = ONEDNN(x, layer.weight, layer.bias, then, [], form)
    return found


def _plain(layer: nn.Linear, x: Tensor) -> bool:
    """Whether oneDNN's kernel takes these, and nothing has to be known of them but values. What does not fit is torch's to refuse."""
    weight, bias = layer.weight, layer.bias
    return (
        not torch.compiler.is_compiling()  # first: what follows cannot be traced
        and torch.is_inference_mode_enabled()
        and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (x, weight, bias) if t is not None)
        and x.dim() > 0
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
