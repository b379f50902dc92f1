"""The data, on a path where a scale can be finished."""

from __future__ import annotations

import torch
from torch import Tensor

from lapflow.core.path import Coefficients
from lapflow.core.prediction import Prediction


class Drawn(Prediction):
    """The data x1. Where a scale is finished there is no noise to speak of: x0 is 0 there."""

    def target(self, c: Coefficients, x: Tensor, data: Tensor, noise: Tensor, noise_std: float) -> Tensor:
        return data

    def endpoints(
        self, c: Coefficients, x: Tensor, output: Tensor, noise_std: float
    ) -> tuple[Tensor, Tensor]:
        left = (x - c.alpha * output) / torch.where(c.sigma > 0, c.sigma, torch.ones_like(c.sigma))
        return output, torch.where(c.sigma > 0, left, torch.zeros_like(left))
