"""The linear path: a = t, b = 1 - (1 - floor) t (Lipman et al. 2023; Liu et al. 2023; LapFlow's default has
floor 0).

LFM (Dao et al. 2023) keeps a noise floor of 1e-5: sigma ends there, and the velocity is x1 - (1 - floor) x0.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.flows.paths.affine import AffinePath


class LinearPath(AffinePath):
    """Straight lines from noise to data; at T = 0 the target is x1 - x0."""

    def __init__(
        self,
        *,
        noise_floor: Annotated[
            float, Field(ge=0, lt=0.1, description="std of the noise left at t = 1; LFM has 1e-5")
        ] = 0.0,
    ) -> None:
        self.sigma_min = noise_floor

    def data_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return u, torch.ones_like(u)

    def noise_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        slope = 1 - self.sigma_min
        b = 1 - slope * u if self.sigma_min else 1 - u
        return b, -slope * torch.ones_like(u)
