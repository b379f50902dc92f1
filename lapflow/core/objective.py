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

    @abstractmethod
    def __call__(self, heads: Heads, point: TrainingPoint) -> Mapping[str, Tensor]:
        """Named scalar losses, each a mean over the point's samples."""


class VelocityMSE(Objective):
    """The mean squared error of each active scale's velocity, times the scale's weight (LapFlow, w_k = 1)."""

    def __call__(self, heads: Heads, point: TrainingPoint) -> Mapping[str, Tensor]:
        main = heads["main"]
        return {f"scale{k}": point.weights[k] * (main[k].float() - u.float()).square().mean() for k, u in point.target.items()}
