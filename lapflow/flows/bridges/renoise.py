"""Finish, upsample, re-noise: the start of Relay Diffusion's second stage (Teng et al. 2023) and of
EdifyImage's upsampler.

The state of the segment before is taken for clean, brought to the next resolution without the finer bands,
and noised afresh: x' = alpha U(x) + sigma eps. Where the path's alpha of a finer band is not 0 at that level,
training has some of that band and sampling none: the mean misses alpha_k x1_k. By design; the law check
reports it, and the oracle shows its price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lapflow.core.bridge import Bridge, entering
from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.core.state import State, scalar_time
from lapflow.util.transfer import upload


class RenoiseBridge(Bridge):
    """A finished coarse image becomes the mean of the next segment's start, with fresh noise on all its
    scales."""

    designed = True

    def num_noise_draws(self, segments: int) -> int:
        return segments

    def noise_index(self, segment: Segment) -> int:
        return segment.index

    def cross(
        self,
        state: Mapping[int, Tensor],
        noise: Sequence[Mapping[int, Tensor]],
        before: Segment | None,
        after: Segment,
        path: Path,
    ) -> State:
        out = {}
        for k in after.scales:
            out[k] = entering(noise[after.index], after, k, path)
            if k in state:
                c = path.coefficients(scalar_time(after.sampling_start), after, k).expand(state[k])
                out[k] = out[k] + upload(c.alpha, state[k].device, state[k].dtype) * state[k]
        return out
