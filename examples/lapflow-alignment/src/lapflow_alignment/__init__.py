"""Representation alignment in the manner of REPA (Yu et al. 2024): beside its own loss a hidden state of the
network, projected, agrees with what a frozen network says of the clean data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import lapflow
from lapflow.core.backbone import Backbone
from lapflow.core.decomposition import Band
from lapflow.core.objective import Objective
from lapflow.flows.flow import Flow, TrainingPoint
from lapflow.objectives.mse import squared_errors


class Alignment(Objective):
    """The squared error of each scale, less `weight` times the mean cosine of the tokens of two hidden
    states."""

    def __init__(
        self,
        *,
        teacher: Annotated[str, Field(description="a run folder or an exported folder, of the same flow")],
        width: Annotated[int, Field(ge=1, description="width of the network's tokens")],
        hidden: Annotated[str, Field(description="hidden state of the network")] = "block1",
        teacher_hidden: Annotated[str, Field(description="hidden state of the teacher")] = "block2",
        weight: Annotated[float, Field(ge=0, description="weight of the alignment")] = 0.5,
    ) -> None:
        self.teacher, self.width, self.weight = teacher, width, weight
        self.hidden, self.teacher_hidden = (hidden,), (teacher_hidden,)

    def build(self, flow: Flow, bands: Mapping[int, Band], num_classes: int) -> None:
        super().build(flow, bands, num_classes)
        self.frozen["teacher"] = network = lapflow.load(self.teacher, device="cpu").model
        blank = {k: torch.zeros(1, *band.shape) for k, band in bands.items()}
        _, found = network(blank, torch.ones(1), return_hidden=self.teacher_hidden)
        wide = next(iter(found[self.teacher_hidden[0]].values())).shape[-1]
        self.module = nn.Sequential(nn.Linear(self.width, wide), nn.SiLU(), nn.Linear(wide, wide))

    def __call__(self, network: Backbone, point: TrainingPoint) -> Mapping[str, Tensor]:
        assert self.module is not None, "build comes before the first call"
        heads, hidden = network(point.state, point.t, point.condition, return_hidden=self.hidden)
        clean = self.flow.to_image(point.data, point.segment)
        with torch.no_grad():
            teacher, t = self.frozen["teacher"], torch.ones_like(point.t)
            _, known = teacher(clean, t, point.condition, return_hidden=self.teacher_hidden)
        losses = squared_errors(heads, point)
        for k, tokens in hidden[self.hidden[0]].items():
            cosine = F.cosine_similarity(self.module(tokens), known[self.teacher_hidden[0]][k], dim=-1)
            losses[f"align{k}"] = self.weight * (1 - cosine).mean()
        return losses
