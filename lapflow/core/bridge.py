"""Contract: how the state at the end of one segment becomes the state at the start of the next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.core.state import State


class Bridge(Component):
    """An affine map of (state, noise). The law check pushes a segment's end law through it when a composition is built."""

    kind = "bridge"

    @abstractmethod
    def cross(self, state: Mapping[int, Tensor], noise: Mapping[int, Tensor], before: Segment | None, after: Segment, path: Path) -> State:
        """The state at `after.start`, coarse to fine.

        `state` is the state at `before.stop`; it is empty and `before` is None at the very start. `noise` is the
        sample's whole noise pyramid {k: x0_k}, every scale, of which the scales in `before` have been used up.
        """
