"""GELU in its tanh form (Hendrycks & Gimpel 2016), the transformers' activation.

gelu(x) = x/2 (1 + tanh(w/2)) = x sigmoid(w),    w = 2 sqrt(2/pi) (x + 0.044715 x^3)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LINEAR = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715 * LINEAR

CHUNK = 2**18
"""Numbers worked on at a time: 1 MiB, which stays in a core's cache from pass to pass."""


def gelu_(x: Tensor) -> Tensor:
    """[...] -> [...], torch's gelu(approximate="tanh") of an `x` that nothing else uses: its memory may serve for the result.

    Without gradients in float32 on a CPU it is computed as x sigmoid(w), piece by piece in place: torch's kernel there takes longer
    (torch 2.13), and differs by rounding.
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled() or torch.compiler.is_compiling()
    if plain or not x.is_contiguous():
        return F.gelu(x, approximate="tanh")
    flat, linear = x.view(-1), torch.tensor(LINEAR)
    buffer = torch.empty(min(CHUNK, flat.numel()))
    for piece in flat.split(CHUNK):
        gate = buffer[: piece.numel()]
        torch.addcmul(linear, piece, piece, value=CUBIC, out=gate)
        piece.mul_(gate.mul_(piece).sigmoid_())
    return x
