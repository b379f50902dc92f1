"""LapFlow's per-scale path, over a base (a, b): what `linear`, `gvp` and `vp` share.

Scale k, which starts at T, has on [T, 1]

    alpha_k(t) = a((t - T) / (1 - T)),        sigma_k(t) = b(t),

so its velocity target is a'((t - T) / (1 - T)) / (1 - T) x1_k + b'(t) x0_k, and at its own start it is b(T)
x0_k. Here t is the segment's local time u: t itself, unless the schedule gives the segment a window (a
cascade's stages each run over the whole of [0, 1]).
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, Path


class AffinePath(Path):
    """A base (a, b) on [0, 1] with a(1) = 1, b(0) = 1, stretched over each scale's own interval."""

    times_per_scale = True

    @abstractmethod
    def data_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """a(u) and a'(u)."""

    @abstractmethod
    def noise_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """b(u) and b'(u)."""

    def coefficients(self, t: Tensor, segment: Segment, scale: int) -> Coefficients:
        segment = segment.of(scale)
        u, start, rate = segment.local_time(t), segment.scale_starts[scale], segment.rate
        a, da = self.data_part((u - start) / (1 - start))
        b, db = self.noise_part(u)
        return Coefficients(a, b, da * (rate / (1 - start)), db * rate)
