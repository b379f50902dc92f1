"""A path of which only the two ends are used: all noise, and all data."""

from __future__ import annotations

import torch
from torch import Tensor

from lapflow.core.intervals import Segment
from lapflow.flows import LinearPath


class OneStep(LinearPath):
    """The linear path, trained at each segment's start alone: the network turns noise into data in one
    step."""

    def __init__(self) -> None:
        super().__init__()

    def discretize(self, t: Tensor, segment: Segment) -> Tensor:
        return torch.full_like(t, segment.start)
