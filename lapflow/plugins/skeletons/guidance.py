"""Classifier-free guidance (Ho & Salimans 2022) in the first part of the clock only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from lapflow.core.guidance import Guidance
from lapflow.core.state import State, map_state


class Skeleton(Guidance):
    """u + scale (c - u) up to the time `until`; after it the conditional velocity as it is."""

    def __init__(
        self,
        *,
        scale: Annotated[float, Field(ge=0, description="1 is off")] = 1.5,
        until: Annotated[
            float, Field(ge=0, le=1, description="the time t after which nothing is guided")
        ] = 1.0,
    ) -> None:
        self.scale, self.until = scale, until

    @property
    def off(self) -> bool:
        return self.scale == 1

    def active(self, t: float) -> bool:
        return not self.off and t <= self.until

    def combine(
        self, conditional: Mapping[int, Tensor], unconditional: Mapping[int, Tensor], levels: int
    ) -> State:
        return map_state(lambda c, u: u + self.scale * (c - u), conditional, unconditional)
