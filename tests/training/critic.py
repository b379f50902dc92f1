"""An objective with weights of its own: at each scale a small critic that tells predictions from targets, in
a game with the network."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import nn

from lapflow import register
from lapflow.core.objective import Objective, frozen
from lapflow.objectives.mse import squared_errors


class Critic(Objective):
    """The squared error, and what a critic of each band says."""

    def build(self, flow, bands, num_classes):
        super().build(flow, bands, num_classes)
        self.module = nn.ModuleDict(
            {
                str(k): nn.Sequential(
                    nn.Conv2d(b.channels, 8, 3, padding=1),
                    nn.SiLU(),
                    nn.Flatten(),
                    nn.Linear(8 * math.prod(b.sizes), 1),
                )
                for k, b in bands.items()
            }
        )

    def __call__(self, network, point):
        heads = network(point.state, point.t, point.condition)
        losses = squared_errors(heads, point)
        for k, made in heads["main"].items():
            judge = self.module[str(k)]
            with frozen(judge):
                losses[f"network{k}"] = 0.1 * F.softplus(-judge(made)).mean()
            on_real, on_made = judge(point.target[k].to(made.dtype)), judge(made.detach())
            losses[f"critic{k}"] = F.softplus(-on_real).mean() + F.softplus(on_made).mean()
        return losses


def make_known():
    """As `test-critic`, in this process."""
    register(Critic, name="test-critic")
