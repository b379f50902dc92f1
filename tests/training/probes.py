"""Small objectives that ask of the network all that an objective may ask."""

from __future__ import annotations

import torch
from torch import nn

import lapflow
from lapflow import register
from lapflow.core.objective import Objective
from lapflow.objectives.mse import squared_errors


class Twice(Objective):
    """Two evaluations a step: the squared error, and half the state gives half of what it gives."""

    def __call__(self, network, point):
        heads = network(point.state, point.t, point.condition)
        half = network({k: x / 2 for k, x in point.state.items()}, point.t, point.condition)["main"]
        losses = squared_errors(heads, point)
        return losses | {f"half{k}": (heads["main"][k] / 2 - x).square().mean() for k, x in half.items()}


class Taught(Objective):
    """A teacher's velocity is the target."""

    def __init__(self, *, teacher: str) -> None:
        self.teacher = teacher

    def build(self, flow, bands, num_classes):
        super().build(flow, bands, num_classes)
        self.frozen["teacher"] = lapflow.load(self.teacher, device="cpu").model

    def __call__(self, network, point):
        given = (point.state, point.t, point.condition)
        with torch.no_grad():
            wanted = self.frozen["teacher"](*given)["main"]
        return {f"taught{k}": (x - wanted[k]).square().mean() for k, x in network(*given)["main"].items()}


class Aligned(Taught):
    """The squared error, and a projection of a hidden state is near the teacher's."""

    hidden = ("block1",)

    def build(self, flow, bands, num_classes):
        super().build(flow, bands, num_classes)
        self.module = nn.Linear(32, 32)

    def __call__(self, network, point):
        given = (point.state, point.t, point.condition)
        heads, hidden = network(*given, return_hidden=self.hidden)
        with torch.no_grad():
            _, wanted = self.frozen["teacher"](*given, return_hidden=("block2",))
        losses = squared_errors(heads, point)
        for k, x in hidden["block1"].items():
            losses[f"align{k}"] = (self.module(x) - wanted["block2"][k]).square().mean()
        return losses


PROBES = {"test-twice": Twice, "test-taught": Taught, "test-aligned": Aligned}


def make_known():
    for name, probe in PROBES.items():
        register(probe, name=name)
