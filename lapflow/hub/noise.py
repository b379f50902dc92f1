"""The noise of a batch as one tensor, which is what diffusers calls `latents`.

A sample's noise is made of white draws of unit variance. Usually (noise `decomposed`, one pyramid) these are
one white sample, and the tensor is [b, c, *sizes], the shape of the flow's samples. Where there are several,
because the scales have noise of their own, the noise is coloured, or the bridges need a pyramid for each
segment, the tensor is [b, n]: each sample's draws one after another, flattened, in the order in which a
generator draws them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lapflow.core.errors import ConfigError
from lapflow.core.state import Shape, State
from lapflow.flows.flow import Flow


def noise_shape(flow: Flow, shape: Shape) -> tuple[int, ...]:
    """The shape of one sample's noise as a tensor, for samples of `shape` in the flow's space."""
    parts = _parts(flow, shape)
    return parts[0][2] if len(parts) == 1 else (sum(math.prod(form) for _, _, form in parts),)


def join_noise(white: Sequence[Mapping[int, Tensor]]) -> Tensor:
    """The draws of `Flow.draw_white` as one tensor [b, ...]."""
    draws = [draw for pyramid in white for draw in pyramid.values()]
    return draws[0] if len(draws) == 1 else torch.cat([draw.flatten(1) for draw in draws], dim=1)


def split_noise(flow: Flow, shape: Shape, latents: Tensor, batch: int) -> list[State]:
    """The inverse of `join_noise`, for samples of `shape`. Raises `ConfigError` unless the tensor is
    [batch, *noise_shape]."""
    wanted = (batch, *noise_shape(flow, shape))
    if tuple(latents.shape) != wanted or not latents.is_floating_point():
        raise ConfigError(
            "latents must be the white noise of every sample",
            got=f"{latents.dtype} of shape {tuple(latents.shape)}",
            expected=f"floating point of shape {wanted}, as pipe.prepare_latents({batch}) gives it",
        )
    parts = _parts(flow, shape)
    sizes = [math.prod(form) for _, _, form in parts]
    white: list[State] = [{} for _ in flow.finest_noise_scales()]
    for (pyramid, scale, form), draw in zip(parts, latents.flatten(1).split(sizes, dim=1), strict=True):
        white[pyramid][scale] = draw.reshape(batch, *form)
    return white


def _parts(flow: Flow, shape: Shape) -> list[tuple[int, int, Shape]]:
    """(pyramid, scale, shape) of each white draw."""
    return [
        (i, k, form)
        for i in range(len(flow.finest_noise_scales()))
        for k, form in flow.noise.white_shapes(shape).items()
    ]
