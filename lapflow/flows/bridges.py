"""Bridges: how one segment hands over to the next (`lapflow.core.bridge`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.bridge import Bridge, ConditionalBridge, entering
from lapflow.core.errors import ConfigError
from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.core.state import State, StateView, expand_time, scalar_time
from lapflow.util.transfer import upload


class AppendBridge(Bridge):
    """Scale k enters at its start T as sigma_k(T) x0_k; the others are left as they are (LapFlow)."""

    def cross(
        self, state: StateView, noise: Sequence[StateView], before: Segment | None, after: Segment, path: Path
    ) -> State:
        return {k: state[k] if k in state else entering(noise[0], after, k, path) for k in after.scales}


class TransitionBridge(Bridge):
    """The scales in progress are rescaled to the noise level at which the next segment starts, a new scale
    joins as noise.

    The resolution transition of Pyramidal Flow (Jin et al. 2024) and EdifyImage (NVIDIA 2024), one formula:

        x_fine = a U(x_coarse) + sigma H eps,        H = I - U D,

    whose noise is white of std sigma exactly when c a sigma_c = sigma, with sigma_c the std of the coarse
    state's white noise and c = 2^(n/2) for n halved axes, 2 in images. So a is not free: it is the ratio of
    the noise that the path has after and before, and the mean must follow. Pyramidal Flow: a = s'/e = (1 +
    s')/2; EdifyImage: a = 1. In the literature's form the new noise is correlated between the pixels of a
    block by gamma = -1/(2^n - 1), -1/3 in images: that is H eps.
    """

    def cross(
        self, state: StateView, noise: Sequence[StateView], before: Segment | None, after: Segment, path: Path
    ) -> State:
        out = {}
        for k in after.scales:
            if before is None or k not in state:
                out[k] = entering(noise[0], after, k, path)
            else:
                out[k] = state[k] * jump(before, after, k, path)
        return out


def jump(before: Segment, after: Segment, scale: int, path: Path) -> float:
    """a: the noise of band `scale` at the start of `after` over its noise at the end of `before`."""
    left = path.coefficients(scalar_time(path.solve_t_max(before)), before, scale)
    right = path.coefficients(scalar_time(after.sampling_start), after, scale)
    return (right.sigma * after.noise_scale / (left.sigma * before.noise_scale)).item()


class RenoiseBridge(Bridge):
    """A finished coarse image becomes the mean of the next segment's start, with fresh noise on all scales.

    The start of Relay Diffusion's second stage (Teng et al. 2023) and of EdifyImage's upsampler. The state of
    the segment before is taken for clean, brought to the next resolution without the finer
    bands, and noised afresh: x' = alpha U(x) + sigma eps. Where the path's alpha of a finer band is not 0 at
    that level, training has some of that band and sampling none: the mean misses alpha_k x1_k. By design; the
    law check reports it, and the oracle shows its price.
    """

    designed = True

    def num_noise_draws(self, segments: int) -> int:
        return segments

    def noise_index(self, segment: Segment) -> int:
        return segment.index

    def cross(
        self, state: StateView, noise: Sequence[StateView], before: Segment | None, after: Segment, path: Path
    ) -> State:
        out = {}
        for k in after.scales:
            out[k] = entering(noise[after.index], after, k, path)
            if k in state:
                c = path.coefficients(scalar_time(after.sampling_start), after, k).expand(state[k])
                out[k] = out[k] + upload(c.alpha, state[k].device, state[k].dtype) * state[k]
        return out


class ConditionBridge(ConditionalBridge):
    """The next segment starts from fresh noise; the finished coarser image goes on as a condition, corrupted
    at a known level.

    Cascaded diffusion (Ho et al. 2022, "Cascaded Diffusion Models", CDM; Saharia et al. 2022, Imagen): every
    segment is a whole diffusion from pure noise. From the second on, the network sees beside its noisy image
    the finished coarser image, corrupted and upsampled: z = a(s) y + s n with a(s) = sqrt(1 - s^2), level s
    in [0, 1), which it is told. Training draws s, sampling fixes it and corrupts too, so that the network
    never meets a law it was not trained on.

    `before` adds white noise at the coarser resolution, then upsamples (CDM); `after` upsamples, then adds
    white noise at the full resolution (Imagen): the coarser image then sees half its std.
    """

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
        self, state: StateView, noise: Sequence[StateView], before: Segment | None, after: Segment, path: Path
    ) -> State:
        return {k: entering(noise[self.noise_index(after)], after, k, path) for k in after.scales}

    def corrupt(
        self, image: StateView, noise: StateView, level: Tensor, before: Segment, after: Segment
    ) -> State:
        out = {}
        for k in after.scales:
            s = expand_time(level, noise[k]).to(noise[k].dtype)
            if self.where == "after" or k in image:
                out[k] = s * self.corruption_noise_scale(before, after) * noise[k]
            else:
                out[k] = torch.zeros_like(noise[k])
            if k in image:
                out[k] = out[k] + (1 - s**2).sqrt() * image[k]
        return out

    def corruption_noise_scale(self, before: Segment, after: Segment) -> float:
        return before.noise_scale if self.where == "before" else after.noise_scale

    def draw_corruption_level(self, u: Tensor) -> Tensor:
        return self.max_corruption_level * u
