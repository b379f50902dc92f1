"""LapFlow's bridge: the scales in progress go on, a new scale joins as noise at the level its path has at its start."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lapflow.core.bridge import Bridge
from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.core.state import State


class AppendBridge(Bridge):
    """Scale k enters at its start T as sigma_k(T) x0_k; the others are left as they are."""

    def cross(self, state: Mapping[int, Tensor], noise: Mapping[int, Tensor], before: Segment | None, after: Segment, path: Path) -> State:
        out = {}
        for k in after.scales:
            if k in state:
                out[k] = state[k]
            else:
                start = torch.tensor(after.start, dtype=torch.float64, device="cpu")
                out[k] = noise[k] * path.coefficients(start, after, k).sigma.item()
        return out
