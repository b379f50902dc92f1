"""v-prediction (Salimans & Ho 2022): v = alpha x0 - sigma x1, the velocity of a variance-preserving path
along its angle."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from lapflow.core.path import Coefficients
from lapflow.core.prediction import Prediction


class Skeleton(Prediction):
    """v = alpha x0 - sigma x1. With x = alpha x1 + sigma x0 both come back, divided by alpha^2 + sigma^2, at
    every time."""

    def __init__(
        self,
        *,
        loss_weight: Annotated[float, Field(gt=0, description="weight of the squared error of v")] = 1.0,
    ) -> None:
        self.loss_weight = loss_weight

    def target(self, c: Coefficients, x: Tensor, data: Tensor, noise: Tensor, noise_std: float) -> Tensor:
        return c.alpha * noise - c.sigma * data

    def endpoints(
        self, c: Coefficients, x: Tensor, output: Tensor, noise_std: float
    ) -> tuple[Tensor, Tensor]:
        total = c.alpha**2 + c.sigma**2
        return (c.alpha * x - c.sigma * output) / total, (c.sigma * x + c.alpha * output) / total

    def weight(self, c: Coefficients, noise_std: float) -> Tensor | float:
        return self.loss_weight
