"""MeanFlow on points in the plane: one step lands on them, where one step of flow matching does not."""

from __future__ import annotations

from typing import ClassVar

import torch
from lapflow_meanflow import MeanFlow
from torch import nn

import lapflow
from lapflow.config.loading import load_config
from lapflow.flows import AppendBridge, LinearPath
from lapflow.objectives import MSE
from lapflow.plugins.conformance import ObjectiveConformance
from lapflow.pyramids import Identity
from lapflow.schedules import CumulativeIntervals
from lapflow.training.events import read_events
from lapflow.training.loop import train

CENTRES = torch.tensor([[2.0, 0.0], [-1.0, 1.8], [-1.0, -1.8]])
SMALL = [
    "model.width=16",
    "model.heads=2",
    "model.depth=1",
    "training.batch_size=8",
    "training.warmup_steps=0",
]


class TestMeanFlow(ObjectiveConformance):
    least_at_target = False

    def make(self):
        return MeanFlow()


class Average(nn.Module):
    """u(x, t, t_end) of points [b, 2, 1, 1]."""

    condition: ClassVar[dict] = {}
    mask, second_time = "none", True

    def __init__(self, width=128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, state, t, condition=None, *, t_end=None):
        span = torch.zeros_like(t) if t_end is None else t_end - t
        x = torch.cat([state[0].flatten(1), t[:, None], span[:, None]], 1)
        return {"main": {0: self.layers(x)[:, :, None, None]}}


def one_step_distance(objective):
    """Trains, then the mean distance to the nearest centre after one step from noise."""
    torch.manual_seed(0)
    flow = lapflow.compose(Identity(), CumulativeIntervals(starts=[0.0]), LinearPath(), AppendBridge())
    model, generator = Average(), torch.Generator().manual_seed(2)
    objective.build(flow, flow.bands((2, 1, 1)), 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(1200):
        x = CENTRES[torch.randint(3, (256,))] + 0.1 * torch.randn(256, 2)
        point = flow.training_point(x[:, :, None, None], generator, second_time=objective.second_time)
        optimizer.zero_grad()
        sum(objective(model, point).values()).backward()
        optimizer.step()
    noise, t = torch.randn(1000, 2, 1, 1), torch.zeros(1000)
    with torch.no_grad():
        made = noise + model({0: noise}, t, t_end=t + 1 if objective.second_time else None)["main"][0]
    return torch.cdist(made.flatten(1), CENTRES).min(1).values.mean().item()


def test_one_step_lands_on_the_points():
    plain, mean = one_step_distance(MSE()), one_step_distance(MeanFlow(instantaneous=0.5))
    assert plain > 1.5
    assert mean < 0.7


def test_it_trains_a_network_with_a_second_time(tmp_path):
    options = [
        *SMALL,
        "training.steps=2",
        "training.log_every=1",
        "model.second_time=true",
        "objective=meanflow",
    ]
    run = train(load_config("lapflow-digits", [*options, "attention=sdpa"]), tmp_path / "run")
    assert all(e["loss"] > 0 for e in read_events(run) if e["event"] == "train")
