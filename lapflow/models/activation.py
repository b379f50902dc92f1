"""The transformers' activation, GELU in its tanh form (Hendrycks & Gimpel 2016), with the linear layer before it.

gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry, register_flop_formula

FUSED = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None
"""oneDNN's linear layer that applies a function to its result before it leaves the cache; what torch.compile's frozen graphs use."""


class LinearGELU(nn.Linear):
    """gelu(x W^T + b): a linear layer with its activation.

    In inference mode on a CPU in float32 it is one kernel of oneDNN, which differs by rounding. That kernel has no derivative, and
    under torch.func it would say that it is 0; inference mode is where neither can be asked for.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., hidden]."""
        if FUSED is not None and self._plain(x):
            return FUSED(x, self.weight, self.bias, "gelu", [], "tanh")
        return F.gelu(super().forward(x), approximate="tanh")

    def _plain(self, x: Tensor) -> bool:
        """Whether the kernel takes this `x`, and nothing has to be known of it but its value."""
        return (
            not torch.compiler.is_compiling()  # first: what follows cannot be traced
            and torch.is_inference_mode_enabled()
            and x.device.type == self.weight.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
        )


def _flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """For torch's FlopCounterMode: those of the product, as it counts any linear layer."""
    return 2 * math.prod(out_shape) * weight[-1]


if FUSED is not None and FUSED not in flop_registry:
    register_flop_formula(FUSED)(_flops)
