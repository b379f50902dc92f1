"""Contract: how data and noise mix along time in each band, and what converts predictions into each other.

A path is affine: x_t = alpha(t) x1 + sigma(t) x0, with x1 the data's band and x0 the noise's band, t = 0
noise and t = 1 data (stochastic interpolants: Albergo & Vanden-Eijnden 2022; SiT: Ma et al. 2024).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.intervals import Segment
from lapflow.core.state import expand_time
from lapflow.util.transfer import upload


@dataclass(frozen=True)
class Coefficients:
    """alpha, sigma and their derivatives by t at given times, shaped like the times (a scalar or [b]).

    With `pattern` a last axis holds one value per sub-band (block-DCT: frequency), alike for every channel.
    """

    alpha: Tensor
    sigma: Tensor
    dalpha: Tensor
    dsigma: Tensor
    pattern: bool = field(default=False, kw_only=True)

    def expand(self, like: Tensor) -> Coefficients:
        """The same coefficients, shaped to multiply `like` [b, c, *sizes]."""
        values = (self.alpha, self.sigma, self.dalpha, self.dsigma)
        if not self.pattern:
            return Coefficients(*(expand_time(c, like) for c in values))
        tiles, ones = like.shape[1] // self.alpha.shape[-1], [1] * (like.ndim - 2)
        # A scalar may stay on the CPU, a tensor with a pattern must be where the band is.
        tiled = (c.reshape(-1, c.shape[-1]).repeat(1, tiles).unflatten(-1, (-1, *ones)) for c in values)
        return Coefficients(*(upload(c, like.device) for c in tiled))

    def position(self, data: Tensor, noise: Tensor) -> Tensor:
        """x_t = alpha x1 + sigma x0. Finite everywhere."""
        return self.alpha * data + self.sigma * noise

    def velocity(self, data: Tensor, noise: Tensor) -> Tensor:
        """dx_t/dt = alpha' x1 + sigma' x0. Finite where sigma' is."""
        return self.dalpha * data + self.dsigma * noise

    def endpoints_from_velocity(self, x: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """(x1, x0) of x and this velocity. Finite where alpha' sigma - alpha sigma' is (VP: t < 1)."""
        determinant = self.dalpha * self.sigma - self.alpha * self.dsigma
        data = (self.sigma * velocity - self.dsigma * x) / determinant
        noise = (self.dalpha * x - self.alpha * velocity) / determinant
        return data, noise

    def endpoints_from_denoised(self, x: Tensor, denoised: Tensor) -> tuple[Tensor, Tensor]:
        """(x1, x0) from a prediction of x1. Finite where sigma > 0."""
        return denoised, (x - self.alpha * denoised) / self.sigma

    def endpoints_from_noise(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(x1, x0) from a prediction of x0. Finite where alpha > 0."""
        return (x - self.sigma * noise) / self.alpha, noise

    def endpoints_from_score(self, x: Tensor, score: Tensor, noise_std: float) -> tuple[Tensor, Tensor]:
        """(x1, x0) from the score of x_t, x0 white of `noise_std` per direction. Finite where alpha > 0."""
        return self.endpoints_from_noise(x, -self.sigma * noise_std**2 * score)

    def score(self, noise: Tensor, noise_std: float) -> Tensor:
        """The score -x0 / (sigma g^2) of x_t given x1, x0 white of std g = `noise_std`; needs sigma > 0."""
        return -noise / (self.sigma * noise_std**2)


class Path(Component):
    """alpha and sigma of every band in every segment, as functions of the segment's local time u."""

    kind = "path"

    u_max: float = 1.0
    """The last u at which every coefficient is finite; training and solvers of the ODE do not pass it."""

    times_per_scale: bool = False
    """Whether `coefficients` honours a segment's `windows`, times of each scale's own."""

    sigma_min: float = 0.0
    """The noise std left at `u_max`, per direction of a band of unit noise."""

    @abstractmethod
    def coefficients(self, t: Tensor, segment: Segment, scale: int) -> Coefficients:
        """Coefficients of band `scale` at times `t` (a scalar or [b]), u in [segment.scale_starts[scale],
        u_max]. Derivatives are by t. Shaped like `t` (and the pattern)."""

    def t_max(self, segment: Segment) -> float:
        """The time of `u_max`; it may lie past the segment's stop."""
        return segment.global_time(self.u_max)

    def train_t_max(self, segment: Segment) -> float:
        """The time up to which training draws for `segment`; a schedule may stop before."""
        return self.t_max(segment)

    def solve_t_max(self, segment: Segment) -> float:
        """The last time of `segment` at which the coefficients are finite."""
        return min(segment.stop, self.t_max(segment))

    def first(self, segment: Segment) -> float:
        """The first time of `segment` at which sampling may enter; training draws from segment.start on."""
        return segment.start

    def grid(self, segment: Segment, steps: int) -> list[float]:
        """The default sampling grid: `steps` + 1 rising times from segment.sampling_start to segment.stop."""
        return segment.grid(steps)

    def model_time(self, t: Tensor, segment: Segment) -> Tensor:
        """The time that the network is given, shaped like `t`: t unless the path says otherwise."""
        return t

    def discretize(self, t: Tensor, segment: Segment) -> Tensor:
        """Training times moved to those at which the path is defined (discrete times)."""
        return t


class DiscretePath(Path):
    """A path with discrete times, as of Markov chains: training and ancestral steps stay on them."""

    @abstractmethod
    def discretize(self, t: Tensor, segment: Segment) -> Tensor:
        """Times `t` moved to the path's discrete times."""

    @abstractmethod
    def next_timestep(self, t: Tensor, segment: Segment) -> Tensor:
        """The next of the discrete times after `t`; the end after the last."""


def posterior_variance(c: Coefficients, after: Coefficients) -> Tensor:
    """Variance per unit of noise variance of the state at `after` given the state at `c` and the data, of the
    Markov process whose marginals the path has: sigma'^2 (sigma^2 - (alpha/alpha')^2 sigma'^2) / sigma^2,
    primes at `after`, the later time (the betatilde of Ho et al. 2020, eq. 7, for any alpha and sigma)."""
    return after.sigma**2 * forward_variance(c, after) / c.sigma**2


def forward_variance(c: Coefficients, after: Coefficients) -> Tensor:
    """Variance of the noising from `after` to `c`: sigma^2 - (alpha/alpha')^2 sigma'^2 (Ho et al.'s beta)."""
    return c.sigma**2 - (c.alpha / after.alpha) ** 2 * after.sigma**2


def learned_variance(output: Tensor, c: Coefficients, after: Coefficients) -> Tensor:
    """The variance that a learned range stands for: ln s^2 = v ln beta + (1 - v) ln betatilde, v = (output +
    1) / 2, between the `posterior_variance` and the `forward_variance` of the step (Nichol & Dhariwal 2021,
    eq. 15); v is not clamped. In the step into sigma = 0, where betatilde is 0, it is beta (DiT's code takes
    the range of the step before, and samples no noise there)."""
    v, large, small = (output + 1) / 2, forward_variance(c, after), posterior_variance(c, after)
    return torch.exp(v * torch.log(large) + (1 - v) * torch.log(torch.where(small > 0, small, large)))
