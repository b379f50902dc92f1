"""The default objective: the weighted mean squared error of each scale."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lapflow.core.backbone import MAIN, Backbone, Heads
from lapflow.core.objective import Objective
from lapflow.flows.flow import TrainingPoint


class MSE(Objective):
    """The mean squared error of each active scale's prediction, times the scale's weight (LapFlow, w_k = 1)
    and what the prediction weighs a time with."""

    def __call__(self, network: Backbone, point: TrainingPoint) -> Mapping[str, Tensor]:
        return squared_errors(network(point.state, point.t, point.condition), point)


def squared_errors(heads: Heads, point: TrainingPoint) -> dict[str, Tensor]:
    """The weighted error of each active scale of the head `main`, under the scale's name."""
    return {
        f"scale{k}": weighted_error(heads[MAIN][k], target, point.weights[k])
        for k, target in point.target.items()
    }


def weighted_error(output: Tensor, target: Tensor, weight: Tensor | float) -> Tensor:
    """The mean over samples of weight (a number, or [b]) times the mean squared error of a sample."""
    squares = (output.float() - target.float()).square()
    if isinstance(weight, Tensor) and weight.ndim:
        return (weight.float() * squares.flatten(1).mean(1)).mean()
    return weight * squares.mean()
