"""Contract: how data and noise mix along time in each band, and the conversions among what a network may predict.

A path is affine: x_t = alpha(t) x1 + sigma(t) x0, with x1 the data's band and x0 the noise's band, t = 0 noise and
t = 1 data (the stochastic interpolants of Albergo & Vanden-Eijnden 2022, equation form of SiT, Ma et al. 2024).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.intervals import Segment
from lapflow.core.state import expand_time


@dataclass(frozen=True)
class Coefficients:
    """alpha, sigma and their time derivatives at given times; tensors that broadcast over a band's [b, c, h, w].

    `variance_rate` = sigma sigma', kept apart because it stays finite where sigma' does not (VP at t = 1).
    """

    alpha: Tensor
    sigma: Tensor
    dalpha: Tensor
    dsigma: Tensor
    variance_rate: Tensor

    def expand(self, like: Tensor) -> Coefficients:
        """The same coefficients, shaped to multiply `like` [b, c, h, w]."""
        return Coefficients(*(expand_time(c, like) for c in self.__dict__.values()))

    def position(self, data: Tensor, noise: Tensor) -> Tensor:
        """x_t = alpha x1 + sigma x0. Finite everywhere."""
        return self.alpha * data + self.sigma * noise

    def velocity(self, data: Tensor, noise: Tensor) -> Tensor:
        """dx_t/dt = alpha' x1 + sigma' x0. Finite where sigma' is."""
        return self.dalpha * data + self.dsigma * noise

    def endpoints_from_velocity(self, x: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """(x1, x0) that give position x and this velocity. Finite where alpha' sigma - alpha sigma' is: t < 1 for VP, else all t."""
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
        """(x1, x0) from the score of x_t, for x0 white of `noise_std` per direction of the band's range. Finite where alpha > 0."""
        return self.endpoints_from_noise(x, -self.sigma * noise_std**2 * score)

    def score(self, noise: Tensor, noise_std: float) -> Tensor:
        """The score -x0 / (sigma g^2) of x_t given x1, for x0 white of std g = `noise_std`. Finite where sigma > 0."""
        return -noise / (self.sigma * noise_std**2)


class Path(Component):
    """alpha and sigma of every band in every segment. The network predicts the velocity."""

    kind = "path"

    end: float = 1.0
    """The last time at which every coefficient is finite; training times and sampling stay at or below it."""

    @abstractmethod
    def coefficients(self, t: Tensor, segment: Segment, scale: int) -> Coefficients:
        """Coefficients of band `scale` at times `t` (a scalar or [b]) in [segment.entry[scale], end]. Shaped like `t`."""
