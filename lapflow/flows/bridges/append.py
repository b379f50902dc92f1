"""LapFlow's bridge: the scales in progress go on, a new scale joins as noise at the level its path has at its
start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lapflow.core.bridge import Bridge, entering
from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.core.state import State


class AppendBridge(Bridge):
    """Scale k enters at its start T as sigma_k(T) x0_k; the others are left as they are."""

    def cross(
        self,
        state: Mapping[int, Tensor],
        noise: Sequence[Mapping[int, Tensor]],
        before: Segment | None,
        after: Segment,
        path: Path,
    ) -> State:
        return {k: state[k] if k in state else entering(noise[0], after, k, path) for k in after.scales}
