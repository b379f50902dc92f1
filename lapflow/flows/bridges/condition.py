"""Cascaded diffusion's bridge (Ho et al. 2022, "Cascaded Diffusion Models", CDM; Saharia et al. 2022,
Imagen).

Every segment is a whole diffusion from pure noise. From the second on, the network sees beside its noisy
image the finished coarser image, corrupted and upsampled: z = a(s) y + s n with a(s) = sqrt(1 - s^2), level s
in [0, 1), which it is told. Training draws s, sampling fixes it and corrupts too, so that the network never
meets a law it was not trained on.

`before` adds white noise at the coarser resolution, then upsamples (CDM); `after` upsamples, then adds white
noise at the full resolution (Imagen): the coarser image then sees half its std.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.bridge import ConditionalBridge, entering
from lapflow.core.errors import ConfigError
from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.core.state import State, expand_time


class ConditionBridge(ConditionalBridge):
    """The next segment starts from fresh noise; the finished coarser image goes on as a condition, corrupted
    at a known level."""

    def __init__(
        self,
        *,
        corrupt: Annotated[
            Literal["before", "after"],
            Field(description="add the noise before upsampling (CDM), or after it (Imagen)"),
        ] = "before",
        corruption_level: Annotated[
            float, Field(ge=0, lt=1, description="level s at which sampling corrupts")
        ] = 0.1,
        max_corruption_level: Annotated[
            float, Field(ge=0, lt=1, description="training draws s uniformly on [0, max_corruption_level]")
        ] = 0.5,
    ) -> None:
        if corruption_level > max_corruption_level:
            raise ConfigError(
                "sampling would corrupt more than training ever does",
                got=f"corruption_level {corruption_level}, max_corruption_level {max_corruption_level}",
                expected="corruption_level <= max_corruption_level",
            )
        self.where, self.corruption_level = corrupt, corruption_level
        self.max_corruption_level = max_corruption_level

    def num_noise_draws(self, segments: int) -> int:
        return 2 * segments - 1

    def noise_index(self, segment: Segment) -> int:
        return 0 if segment.index == 0 else 2 * segment.index - 1

    def cross(
        self,
        state: Mapping[int, Tensor],
        noise: Sequence[Mapping[int, Tensor]],
        before: Segment | None,
        after: Segment,
        path: Path,
    ) -> State:
        return {k: entering(noise[self.noise_index(after)], after, k, path) for k in after.scales}

    def corrupt(
        self,
        image: Mapping[int, Tensor],
        noise: Mapping[int, Tensor],
        level: Tensor,
        before: Segment,
        after: Segment,
    ) -> State:
        out = {}
        for k in after.scales:
            s = expand_time(level, noise[k]).to(noise[k].dtype)
            whole = self.where == "after" or k in image
            out[k] = (
                s * self.corruption_noise_scale(before, after) * noise[k]
                if whole
                else torch.zeros_like(noise[k])
            )
            if k in image:
                out[k] = out[k] + (1 - s**2).sqrt() * image[k]
        return out

    def corruption_noise_scale(self, before: Segment, after: Segment) -> float:
        return before.noise_scale if self.where == "before" else after.noise_scale

    def draw_corruption_level(self, u: Tensor) -> Tensor:
        return self.max_corruption_level * u
