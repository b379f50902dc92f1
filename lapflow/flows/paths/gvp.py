"""The generalised variance-preserving path: a = sin(pi t / 2), b = cos(pi t / 2) (Albergo & Vanden-Eijnden
2022; SiT).

LapFlow's paper names a per-scale GVP and does not publish its form; this one is ours: the trigonometric base
over the scale's own interval for the data, over [0, 1] for the noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lapflow.flows.paths.affine import AffinePath

HALF_PI = math.pi / 2


class GVPPath(AffinePath):
    """Trigonometric path; alpha^2 + sigma^2 = 1 for a scale that starts at 0."""

    def data_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(HALF_PI * u), HALF_PI * torch.cos(HALF_PI * u)

    def noise_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        # cos(pi t / 2) as a sine of the time left, so that it is exactly 0 at t = 1.
        left = HALF_PI * (1 - u)
        return torch.sin(left), -HALF_PI * torch.cos(left)
