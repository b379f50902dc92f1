"""An error that grows linearly where it is large, so that no single value rules a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.backbone import Backbone
from lapflow.core.objective import Objective
from lapflow.flows.flow import TrainingPoint


class Skeleton(Objective):
    """The pseudo-Huber error sqrt(d^2 + c^2) - c of each active scale (Charbonnier et al. 1997), weighted as
    the point says."""

    def __init__(
        self,
        *,
        c: Annotated[
            float, Field(gt=0, description="differences above c count by their size, not its square")
        ] = 0.1,
    ) -> None:
        self.c = c

    def __call__(self, network: Backbone, point: TrainingPoint) -> Mapping[str, Tensor]:
        heads, losses = network(point.state, point.t, point.condition), {}
        for k, target in point.target.items():
            difference = heads["main"][k].float() - target.float()
            errors = torch.sqrt(difference.square() + self.c**2) - self.c
            losses[f"scale{k}"] = (point.weights[k] * errors.flatten(1).mean(1)).mean()
        return losses
