"""Variance-exploding paths with EDM's noise levels: plain, EdifyImage's attenuation, Relay's blurring.

x = sum_k alpha_k bands + s eps. The local time u is the quantile of the training law of the noise level s, so
that uniform draws of u train ln s ~ N(-1.2, 1.2^2) (Karras et al. 2022), here cut to s <= 80 and s >= .002:

    s(u) = exp(-1.2 + 1.2 Phi^-1(q)),    q = Phi(z(80)) (1 - u),    z(s) = (ln s + 1.2) / 1.2,

down to s = .002; from there s falls smoothly to 0 at u = 1, the last step of an EDM sampler. Sampling grids
are EDM's: rho = 7 in s, from the level where the segment is entered to .002, then 0; or to that of its stop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.errors import ConfigError
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, Path
from lapflow.core.state import scalar_time

MEAN, SPREAD, RHO = -1.2, 1.2, 7.0
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
TAIL = 1e-3
"""The share of the last stretch, to 0, that ODE solvers leave out: x0 = (x - x1) / s is lost to rounding."""


class EDMPath(Path):
    """alpha = 1 and the noise level s(u) of EDM; wants prediction `edm`."""

    sigma_min = 2 * SIGMA_MIN * TAIL

    def range(self, segment: Segment) -> tuple[float, float]:
        """Quantiles of the highest and the lowest noise level."""
        return _quantile(SIGMA_MAX), _quantile(SIGMA_MIN)

    def train_t_max(self, segment: Segment) -> float:
        """The time of the lowest noise level."""
        most, least = self.range(segment)
        return segment.global_time(1 - least / most)

    def t_max(self, segment: Segment) -> float:
        most, least = self.range(segment)
        return segment.global_time(1 - TAIL * least / most)

    def sigma(self, level: Tensor, segment: Segment) -> Tensor:
        """The std of the segment's noise at `level`."""
        return level

    def alpha(
        self, u: Tensor, level: Tensor, rate: Tensor, segment: Segment, scale: int
    ) -> tuple[Tensor, Tensor]:
        """alpha of a band at u, of noise level `level` and its derivative `rate`; and its derivative by u."""
        return torch.ones_like(level), torch.zeros_like(level)

    def coefficients(self, t: Tensor, segment: Segment, scale: int) -> Coefficients:
        u = segment.local_time(t)
        level, rate = self.noise_level(u, segment)
        alpha, slope = self.alpha(u, level, rate, segment, scale)
        sigma, dsigma = self.sigma(level, segment), self.sigma(rate, segment) * segment.rate
        if alpha.ndim > t.ndim:  # one alpha per sub-band
            sigma, dsigma = (v.unsqueeze(-1).expand(alpha.shape) for v in (sigma, dsigma))
        return Coefficients(alpha, sigma, slope * segment.rate, dsigma, pattern=alpha.ndim > t.ndim)

    def noise_level(self, u: Tensor, segment: Segment) -> tuple[Tensor, Tensor]:
        """s(u) and its derivative by u."""
        most, least = self.range(segment)
        wide = u.double()
        q = (most * (1 - wide)).clamp(least, most)
        z = math.sqrt(2) * torch.erfinv(2 * q - 1)
        s = torch.exp(MEAN + SPREAD * z)
        rate = -most * s * SPREAD * math.sqrt(2 * math.pi) * torch.exp(z**2 / 2)
        # From the lowest level to 0: a parabola in the time left that goes on with the same slope.
        lowest, left = _noise_level(least), least / most
        w = (wide - 1 + left) / left
        bend = SPREAD * math.sqrt(2 * math.pi) * math.exp(NormalDist().inv_cdf(least) ** 2 / 2) * least
        s = torch.where(w > 0, lowest * (1 - bend * w - (1 - bend) * w**2), s)
        rate = torch.where(w > 0, -lowest * (bend + 2 * (1 - bend) * w) / left, rate)
        return s.to(u.dtype), rate.to(u.dtype)

    def time(self, level: float, segment: Segment) -> float:
        """The time of a noise level not below the lowest."""
        return segment.global_time(1 - _quantile(level) / self.range(segment)[0])

    def grid(self, segment: Segment, steps: int) -> list[float]:
        last = self.train_t_max(segment)
        finishes = segment.stop > last
        ends = segment.sampling_start, min(segment.stop, last)
        top, bottom = (self._noise_level_at(t, segment) ** (1 / RHO) for t in ends)
        count = steps - 1 if finishes else steps
        levels = [(top + (bottom - top) * i / count) ** RHO for i in range(1, count)]
        inner = [*(self.time(s, segment) for s in levels), *([last] if finishes and count else [])]
        return [segment.sampling_start, *inner, segment.stop]

    def model_time(self, t: Tensor, segment: Segment) -> Tensor:
        """EDM's c_noise = ln(s) / 4, with s per pixel of the segment's resolution."""
        return torch.log(self.sigma(self.noise_level(segment.local_time(t), segment)[0], segment)) / 4

    def _noise_level_at(self, t: float, segment: Segment) -> float:
        return float(self.noise_level(segment.local_time(scalar_time(t)), segment)[0])

    def _refuse_entry_above(self, top: float, enter: float) -> None:
        if enter > top:
            raise ConfigError(
                "sampling would enter above what is trained",
                got=f"enter {enter}",
                expected=f"at most {top:.4g}",
            )


class EdifyPath(EDMPath):
    """EdifyImage's band attenuation (NVIDIA 2024): the coarsest band is whole throughout,

        alpha_k = max(0, 1 - s / s*_k)

    for the finer ones, s in units of the full image, s / noise_scale per pixel of a resolution. The form of
    alpha_k is ours: the paper does not publish it. s*_k is the level at which scale k enters, unless `edges`
    says; the shipped model enters at `enter`, below it."""

    def __init__(
        self,
        *,
        edges: Annotated[
            Sequence[Annotated[float, Field(gt=0)]] | None,
            Field(description="s*_k of the finer scales, coarse to fine; null: the level where each enters"),
        ] = None,
        enter: Annotated[
            float | None,
            Field(gt=0, description="noise level where sampling enters later segments; null: their start"),
        ] = None,
    ) -> None:
        self.edges, self.enter = None if edges is None else tuple(edges), enter
        # alpha_k = 1 - s / s*_k is not 1 either, for s*_k down to 1/25.
        self.sigma_min = 25 * 2 * SIGMA_MIN * TAIL

    def first(self, segment: Segment) -> float:
        if self.enter is None or segment.index == 0:
            return segment.start
        self._refuse_entry_above(self._noise_level_at(segment.start, segment), self.enter)
        return self.time(self.enter, segment)

    def sigma(self, level: Tensor, segment: Segment) -> Tensor:
        return level / segment.noise_scale

    def alpha(
        self, u: Tensor, level: Tensor, rate: Tensor, segment: Segment, scale: int
    ) -> tuple[Tensor, Tensor]:
        if scale == max(segment.scale_starts):
            return super().alpha(u, level, rate, segment, scale)
        edge = self._edge(segment, scale)
        slope = torch.where(level <= edge, -rate / edge, torch.zeros_like(rate))
        return (1 - level / edge).clamp(min=0), slope

    def _edge(self, segment: Segment, scale: int) -> float:
        coarsest = max(segment.scale_starts)
        if self.edges is None:
            return float(self.noise_level(scalar_time(segment.scale_starts[scale]), segment)[0])
        if coarsest > len(self.edges):
            raise ConfigError(
                "path.edges must name every finer scale",
                got=f"{len(self.edges)} levels",
                expected=f"{coarsest}, coarse to fine",
            )
        return self.edges[coarsest - 1 - scale]


class RelayPath(EDMPath):
    """Relay Diffusion (Teng et al. 2023): the first segment is EDM on the block means; in the second the
    block-DCT's other coefficients (i, j) are blurred away,

        alpha_ij = .999 exp(-(pi^2 (i^2 + j^2) / 16) sB^2 / 2) + .001,    sB = `blur` sin^2(pi (1 - u) / 2),

    with s(u) = exp(-1.2 + 1.2 Phi^-1(`quantile` (1 - u))) >= 7.5e-3. Sampling enters the second segment at s
    = `enter`, its training starts above. Published: .93, 3, .9 (ImageNet); .89, 2 (CelebA-HQ)."""

    SIGMA_LEAST, FREQUENCIES = 7.5e-3, 4

    def __init__(
        self,
        *,
        quantile: Annotated[
            float, Field(gt=0.5, lt=1, description="l: the quantile of the highest noise level")
        ] = 0.93,
        blur: Annotated[float, Field(gt=0, description="the largest blurring sBmax")] = 3.0,
        enter: Annotated[
            float, Field(gt=0, description="noise level at which sampling enters the second segment")
        ] = 0.9,
    ) -> None:
        self.quantile, self.blur, self.enter = quantile, blur, enter
        self._refuse_entry_above(_noise_level(quantile), enter)
        self.sigma_min = 2 * self.SIGMA_LEAST * TAIL * 1.05  # the blurred noise has variance 1.0225

    def range(self, segment: Segment) -> tuple[float, float]:
        return super().range(segment) if segment.index == 0 else (self.quantile, _quantile(self.SIGMA_LEAST))

    def first(self, segment: Segment) -> float:
        return segment.start if segment.index == 0 else self.time(self.enter, segment)

    def alpha(
        self, u: Tensor, level: Tensor, rate: Tensor, segment: Segment, scale: int
    ) -> tuple[Tensor, Tensor]:
        if segment.index == 0 or scale > segment.finest:
            return super().alpha(u, level, rate, segment, scale)
        i = torch.arange(self.FREQUENCIES**2, device=u.device, dtype=u.dtype)[1:]
        squares = (i // self.FREQUENCIES) ** 2 + (i % self.FREQUENCIES) ** 2
        power = math.pi**2 * squares / self.FREQUENCIES**2
        angle = math.pi * (1 - u.unsqueeze(-1)) / 2
        blur = self.blur * torch.sin(angle) ** 2
        slope = -self.blur * math.pi / 2 * torch.sin(2 * angle)
        kept = 0.999 * torch.exp(-power * blur**2 / 2)
        return kept + 0.001, -kept * power * blur * slope


def _quantile(level: float) -> float:
    """Phi((ln s + 1.2) / 1.2)."""
    return 0.5 * math.erfc(-(math.log(level) - MEAN) / SPREAD / math.sqrt(2))


def _noise_level(quantile: float) -> float:
    """The inverse of `_quantile`."""
    return math.exp(MEAN + SPREAD * NormalDist().inv_cdf(quantile))
