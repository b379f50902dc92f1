"""MeanFlow (Geng et al. 2025): the network predicts the average velocity of a step, so that one step is
enough.

With data at t = 1, the average over [t, s] is u(x, t, s) = 1/(s - t) int_t^s v. Its derivative along the
trajectory gives the identity that is trained,

    u(x, t, s) = v + (s - t) (v . grad_x u + du/dt),

the right side held fixed. In the derivative v is the network's own u(x, t, t), not the velocity of the
sample, which is noisy around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lapflow.core.backbone import Backbone
from lapflow.core.objective import Objective
from lapflow.core.state import State, expand_time
from lapflow.flows.flow import TrainingPoint


class MeanFlow(Objective):
    """The squared error of the average velocity, each sample's divided by itself plus 0.001 (held fixed)."""

    second_time = True

    def __init__(
        self,
        *,
        instantaneous: Annotated[
            float, Field(ge=0, lt=1, description="share of the samples whose step has no length")
        ] = 0.75,
    ) -> None:
        self.instantaneous = instantaneous

    def __call__(self, network: Backbone, point: TrainingPoint) -> Mapping[str, Tensor]:
        t, end, condition = point.t, point.t_end, point.condition
        assert isinstance(t, Tensor), "one time for all scales"
        assert isinstance(end, Tensor), "a training pair with a second time"
        span = self._span(t, end)

        def average(state: State, t: Tensor) -> State:
            return network(state, t, condition, t_end=end)["main"]

        end = t
        with torch.no_grad():
            velocity = average(point.state, t)
        end = t + span
        with sdpa_kernel(SDPBackend.MATH):  # fused kernels have no forward-mode derivative
            tangents = (velocity, torch.ones_like(t))
            predicted, slope = torch.func.jvp(average, (point.state, t), tangents)
        losses = {}
        for k, target in point.target.items():
            goal = target + expand_time(span, target) * slope[k].detach()
            errors = (predicted[k] - goal).square().flatten(1).mean(1)
            losses[f"scale{k}"] = (point.weights[k] * errors / (errors.detach() + 1e-3)).mean()
        return losses

    def _span(self, t: Tensor, t_end: Tensor) -> Tensor:
        """s - t: `t_end` is uniform on [t, 1], of which the first part stands for no step at all."""
        portion = ((t_end - t) / (1 - t)).clamp(0, 1)
        return (1 - t) * ((portion - self.instantaneous) / (1 - self.instantaneous)).clamp(min=0)
