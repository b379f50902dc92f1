"""The variance-preserving path in continuous time (Song et al. 2021, with SiT's constants):

    ln a(t) = -(1 - t)^2 (beta_max - beta_min) / 4 - (1 - t) beta_min / 2,    b = sqrt(1 - a^2),    beta 0.1
    to 20.

a(0) = 0.0066, so sampling from pure noise has a small prior error, which `lapflow check` reports. b' is
infinite at t = 1: times stay at or below `u_max` = 1 - 1e-5, where the noise left has std 1e-3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lapflow.flows.paths.affine import AffinePath

BETA_MIN, BETA_MAX = 0.1, 20.0


class VPPath(AffinePath):
    """Variance-preserving path with linear beta; starts at a(0) = 0.0066 rather than 0."""

    u_max = 1 - 1e-5
    sigma_min = 1.0005e-3  # b(u_max)

    def data_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        log_a, rate = self._log(u)
        a = torch.exp(log_a)
        return a, a * rate

    def noise_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        log_a, rate = self._log(u)
        b = torch.sqrt(-torch.expm1(2 * log_a))
        product = -torch.exp(2 * log_a) * rate  # b b' = -a a', since a^2 + b^2 = 1
        return b, product / b

    @staticmethod
    def _log(t: Tensor) -> tuple[Tensor, Tensor]:
        """ln a(t) and its derivative."""
        left = 1 - t
        return -(left**2) * (BETA_MAX - BETA_MIN) / 4 - left * BETA_MIN / 2, left * (
            BETA_MAX - BETA_MIN
        ) / 2 + BETA_MIN / 2
