"""Contract: what training minimises; and the default, the weighted mean squared error per scale."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from lapflow.core.backbone import Heads
from lapflow.core.component import Component

if TYPE_CHECKING:
    from lapflow.core.flow import TrainingPoint


class Objective(Component):
    """(heads, training pair) -> named losses. Their sum is minimised; each is logged under its name."""

    kind = "objective"

    heads: tuple[str, ...] = ()
    """The heads beside `main` that it trains."""

    @abstractmethod
    def __call__(self, heads: Heads, point: TrainingPoint) -> Mapping[str, Tensor]:
        """Named scalar losses, each a mean over the point's samples."""


class MSE(Objective):
    """The mean squared error of each active scale's prediction, times the scale's weight (LapFlow, w_k = 1) and what the
    prediction weighs a time with."""

    def __call__(self, heads: Heads, point: TrainingPoint) -> Mapping[str, Tensor]:
        return {f"scale{k}": weighted_error(heads["main"][k], target, point.weights[k]) for k, target in point.target.items()}


def weighted_error(output: Tensor, target: Tensor, weight: Tensor | float) -> Tensor:
    """The mean over samples of weight (a number, or [b]) times the mean squared error of a sample."""
    squares = (output.float() - target.float()).square()
    if isinstance(weight, Tensor) and weight.ndim:
        return (weight.float() * squares.flatten(1).mean(1)).mean()
    return weight * squares.mean()
