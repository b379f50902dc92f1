"""Classifier-free guidance (Ho & Salimans 2022): v = v_uncond + s (v_cond - v_uncond); s = 1 is off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.errors import ConfigError
from lapflow.core.guidance import Guidance
from lapflow.core.state import State


class ClassifierFreeGuidance(Guidance):
    """v = v_uncond + s (v_cond - v_uncond), one batched call; s = 1 is off and costs nothing."""

    def __init__(
        self,
        *,
        scale: Annotated[
            float | Sequence[float],
            Field(description="guidance scale s; a list gives one per scale, coarse to fine; 1 is off"),
        ] = 1.0,
        interval: Annotated[
            Sequence[float],
            Field(
                min_length=2,
                max_length=2,
                description="guide only at times in [first, last]; elsewhere s = 1",
            ),
        ] = (0.0, 1.0),
        channels: Annotated[
            int | None,
            Field(
                ge=1,
                description="guide the first channels of each band only, as DiT's code does with 3 of 4; "
                "null: all",
            ),
        ] = None,
    ) -> None:
        self.scale = tuple(scale) if isinstance(scale, Sequence) else scale
        self.first, self.last = interval
        self.channels = channels
        if not 0 <= self.first <= self.last <= 1:
            raise ConfigError(
                "guidance.interval is not an interval of times",
                got=list(interval),
                expected="0 <= first <= last <= 1",
            )

    @property
    def off(self) -> bool:
        return all(s == 1 for s in self.scale) if isinstance(self.scale, tuple) else self.scale == 1

    def require(self, levels: int) -> None:
        if isinstance(self.scale, tuple) and len(self.scale) != levels:
            raise ConfigError(
                "guidance.scale must name every scale",
                got=f"{len(self.scale)} values",
                expected=f"{levels}, coarse to fine, or one number",
            )

    def active(self, t: float) -> bool:
        return not self.off and self.first <= t <= self.last

    def combine(
        self, conditional: Mapping[int, Tensor], unconditional: Mapping[int, Tensor], levels: int
    ) -> State:
        return {k: self._guide(v, unconditional[k], self._scale(k, levels)) for k, v in conditional.items()}

    def _guide(self, conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        guided = unconditional + scale * (conditional - unconditional)
        if self.channels is None or self.channels >= conditional.shape[1]:
            return guided
        return torch.cat([guided[:, : self.channels], conditional[:, self.channels :]], dim=1)

    def _scale(self, scale: int, levels: int) -> float:
        return self.scale[levels - 1 - scale] if isinstance(self.scale, tuple) else self.scale
