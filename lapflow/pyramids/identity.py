"""The identity decomposition: one scale, the sample itself, for single-scale systems (LFM, SiT, DiT, LDM)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from lapflow.core.decomposition import Band, Decomposition
from lapflow.core.state import Shape, State, StateView


class Identity(Decomposition):
    """One scale, the sample itself."""

    levels = 1

    def __init__(
        self, *, axes: Annotated[int, Field(ge=1, le=3, description="the samples' number of axes")] = 2
    ) -> None:
        self.axes = axes

    def analyze(self, x: Tensor, start: int = 0) -> State:
        self.check_size(x.shape[2:])
        return {0: x}

    def synthesize(self, state: StateView, start: int = 0) -> Tensor:
        return state[0]

    def bands(self, shape: Shape) -> dict[int, Band]:
        self.check_size(shape[1:])
        return {0: Band(0, shape[0], shape[1:], pixel_std=1.0, direction_std=1.0)}
