"""The linear path: a = t, b = 1 - t (Lipman et al. 2023; Liu et al. 2023; LapFlow's default)."""

from __future__ import annotations

import torch
from torch import Tensor

from lapflow.flows.affine import AffinePath


class LinearPath(AffinePath):
    """Straight lines from noise to data; at T = 0 the target is x1 - x0."""

    def data_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return u, torch.ones_like(u)

    def noise_part(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 - t, -torch.ones_like(t), t - 1
