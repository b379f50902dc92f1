"""Paths in continuous time: LapFlow's per-scale `linear`, `gvp` and `vp`, and Pyramidal Flow's."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, Path

HALF_PI = math.pi / 2
BETA_MIN, BETA_MAX = 0.1, 20.0


class AffinePath(Path):
    """A base (a, b) on [0, 1] with a(1) = 1, b(0) = 1, stretched over each scale's own interval [T, 1]:

        alpha_k(t) = a((t - T) / (1 - T)),        sigma_k(t) = b(t),

    so its velocity target is a'((t - T) / (1 - T)) / (1 - T) x1_k + b'(t) x0_k, and at its own start it is
    b(T) x0_k. Here t is the segment's local time u: t itself, unless the schedule gives the segment a window
    (a cascade's stages each run over the whole of [0, 1]).
    """

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


class LinearPath(AffinePath):
    """Straight lines from noise to data; at T = 0 the target is x1 - x0.

    a = t, b = 1 - (1 - floor) t (Lipman et al. 2023; Liu et al. 2023; LapFlow's default has floor 0). LFM
    (Dao et al. 2023) keeps a floor of 1e-5: sigma ends there, and the velocity is x1 - (1 - floor) x0.
    """

    def __init__(
        self,
        *,
        noise_floor: Annotated[
            float, Field(ge=0, lt=0.1, description="std of the noise left at t = 1; LFM has 1e-5")
        ] = 0.0,
    ) -> None:
        self.sigma_min = noise_floor

    def data_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return u, torch.ones_like(u)

    def noise_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        slope = 1 - self.sigma_min
        b = 1 - slope * u if self.sigma_min else 1 - u
        return b, -slope * torch.ones_like(u)


class GVPPath(AffinePath):
    """Trigonometric path; alpha^2 + sigma^2 = 1 for a scale that starts at 0.

    a = sin(pi t / 2), b = cos(pi t / 2), the generalised variance-preserving path (Albergo & Vanden-Eijnden
    2022; SiT). LapFlow's paper names a per-scale GVP and does not publish its form; this one is ours: the
    base over the scale's own interval for the data, over [0, 1] for the noise.
    """

    def data_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(HALF_PI * u), HALF_PI * torch.cos(HALF_PI * u)

    def noise_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        # cos(pi t / 2) as a sine of the time left, so that it is exactly 0 at t = 1.
        left = HALF_PI * (1 - u)
        return torch.sin(left), -HALF_PI * torch.cos(left)


class VPPath(AffinePath):
    """Variance-preserving path with linear beta; starts at a(0) = 0.0066 rather than 0.

    In continuous time (Song et al. 2021, with SiT's constants), beta from 0.1 to 20:

        ln a(t) = -(1 - t)^2 (beta_max - beta_min) / 4 - (1 - t) beta_min / 2,    b = sqrt(1 - a^2).

    Sampling from pure noise has a small prior error, which `lapflow check` reports. b' is infinite at t = 1:
    times stay at or below `u_max` = 1 - 1e-5, where the noise left has std 1e-3.
    """

    u_max = 1 - 1e-5
    sigma_min = 1.0005e-3  # b(u_max)

    def data_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        log_a, rate = self._log(u)
        a = torch.exp(log_a)
        return a, a * rate

    def noise_part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        log_a, rate = self._log(u)
        b = torch.sqrt(-torch.expm1(2 * log_a))
        product = -torch.exp(2 * log_a) * rate  # b b' = -a a', since a^2 + b^2 = 1
        return b, product / b

    @staticmethod
    def _log(t: Tensor) -> tuple[Tensor, Tensor]:
        """ln a(t) and its derivative."""
        left, span = 1 - t, BETA_MAX - BETA_MIN
        return -(left**2) * span / 4 - left * BETA_MIN / 2, left * span / 2 + BETA_MIN / 2


class PyramidalPath(Path):
    """Straight lines within each stage's window; wants pyramidal `stages` and bridge `transition`.

    Pyramidal Flow (Jin et al. 2024, "Pyramidal Flow Matching for Efficient Video Generative Modeling", eq.
    7-12): a stage runs over a window [s, e] of the local time u, at one resolution, with the same noise n:

        from   s U(D x) + (1 - s) n   to   e x + (1 - e) n,    x the image at the stage's resolution.

    Band by band, with r = (u - s) / (e - s): the coarser bands have alpha = u, the stage's own band alpha = r
    e (it is absent from U(D x)), and all have sigma = 1 - u. The velocity dx/dt is du/dt times what
    Pyramidal's network predicts per unit of r, end - start.
    """

    def coefficients(self, t: Tensor, segment: Segment, scale: int) -> Coefficients:
        u, rate = segment.local_time(t), segment.rate
        first, last = segment.window or (segment.start, segment.stop)
        one = torch.ones_like(t)
        own = scale == segment.finest and segment.index > 0
        slope = last / (last - first) if own else 1.0
        alpha = slope * (u - first) if own else u
        return Coefficients(alpha, 1 - u, slope * rate * one, -rate * one)
