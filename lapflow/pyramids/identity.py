"""The identity decomposition: one scale, the image itself. The single-scale systems (LFM, SiT, DiT, LDM) use
it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lapflow.core.decomposition import Band, Decomposition
from lapflow.core.state import State


class Identity(Decomposition):
    """One scale, the image itself."""

    levels = 1

    def analyze(self, x: Tensor, start: int = 0) -> State:
        return {0: x}

    def synthesize(self, state: Mapping[int, Tensor], start: int = 0) -> Tensor:
        return state[0]

    def bands(self, shape: tuple[int, int, int]) -> dict[int, Band]:
        self.check_size(*shape[1:])
        return {0: Band(0, *shape, pixel_std=1.0, direction_std=1.0)}
