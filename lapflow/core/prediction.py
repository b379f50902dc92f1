"""Contract: what the network's main output stands for. And the usual ones.

A path mixes data and noise as x = alpha x1 + sigma x0; whatever a network predicts of the pair (x1, x0) given
x, linear in it, converts into any other such quantity (Kingma & Gao 2023, appendix D, gives the table).
Training takes `target`, sampling `endpoints`, both from here.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.path import Coefficients

Pair = tuple[Tensor, Tensor]
"""Data and noise (x1, x0)."""


class Prediction(Component):
    """What the head `main` is trained towards, and how (x1, x0) come back. Arguments are shaped alike."""

    kind = "prediction"

    needs_data: bool = False
    """Whether `endpoints` divides by alpha: then sampling enters late (SiT's t0) where alpha starts at 0."""

    needs_noise: bool = False
    """Whether `endpoints` divides by sigma: an ODE solver then ends where sigma is still positive."""

    preconditions: bool = False
    """Whether the network is given something else than x."""

    is_velocity: bool = False
    """Whether the output is dx/dt itself, so that sampling can take it as it is."""

    any_noise: bool = True
    """Whether it holds for noise of any covariance; the score needs white noise."""

    @abstractmethod
    def target(self, c: Coefficients, x: Tensor, data: Tensor, noise: Tensor, noise_std: float) -> Tensor:
        """What the network should return at x; `noise_std` is x0's per direction of the band's range."""

    @abstractmethod
    def endpoints(self, c: Coefficients, x: Tensor, output: Tensor, noise_std: float) -> Pair:
        """(x1, x0), given the network's output at x."""

    def velocity(self, c: Coefficients, x: Tensor, output: Tensor, noise_std: float) -> Tensor:
        """dx/dt, given the network's output at x."""
        return c.velocity(*self.endpoints(c, x, output, noise_std))

    def precondition(self, c: Coefficients, x: Tensor) -> Tensor:
        """What the network is given in place of x."""
        return x

    def weight(self, c: Coefficients, noise_std: float) -> Tensor | float:
        """Weight of the squared error of `target` in the default objective, shaped like the times."""
        return 1.0


class VelocityPrediction(Prediction):
    """dx/dt = alpha' x1 + sigma' x0 (flow matching; Lipman et al. 2023), finite where the path's is."""

    is_velocity = True

    def target(self, c: Coefficients, x: Tensor, data: Tensor, noise: Tensor, noise_std: float) -> Tensor:
        return c.velocity(data, noise)

    def endpoints(self, c: Coefficients, x: Tensor, output: Tensor, noise_std: float) -> Pair:
        return c.endpoints_from_velocity(x, output)

    def velocity(self, c: Coefficients, x: Tensor, output: Tensor, noise_std: float) -> Tensor:
        return output


class DenoisedPrediction(Prediction):
    """The data x1. x0 from it is finite where sigma > 0.

    Easier than the velocity for tokens that hold more numbers than the network is wide (Li & He 2025, "Back
    to Basics: Let Denoising Generative Models Denoise"). The velocity divides the network's error by sigma:
    `heun` and `rk4`, which evaluate where a step ends, at last at sigma = 0.001, make noise of it; `euler`,
    `midpoint`, `ab2` and `heun-edm` do not.
    """

    needs_noise = True

    def target(self, c: Coefficients, x: Tensor, data: Tensor, noise: Tensor, noise_std: float) -> Tensor:
        return data

    def endpoints(self, c: Coefficients, x: Tensor, output: Tensor, noise_std: float) -> Pair:
        return c.endpoints_from_denoised(x, output)


class NoisePrediction(Prediction):
    """The noise x0 (Ho et al. 2020). x1 from it is finite where alpha > 0."""

    needs_data = True

    def target(self, c: Coefficients, x: Tensor, data: Tensor, noise: Tensor, noise_std: float) -> Tensor:
        return noise

    def endpoints(self, c: Coefficients, x: Tensor, output: Tensor, noise_std: float) -> Pair:
        return c.endpoints_from_noise(x, output)


class ScorePrediction(Prediction):
    """The score -x0 / (sigma g^2) of white noise of std g (Song et al. 2021), its error weighted by (sigma
    g)^2 as SiT does, so that the loss is x0 / g's. Finite where sigma > 0; x1 where alpha > 0."""

    needs_data = needs_noise = True
    any_noise = False

    def target(self, c: Coefficients, x: Tensor, data: Tensor, noise: Tensor, noise_std: float) -> Tensor:
        return c.score(noise, noise_std)

    def endpoints(self, c: Coefficients, x: Tensor, output: Tensor, noise_std: float) -> Pair:
        return c.endpoints_from_score(x, output, noise_std)

    def weight(self, c: Coefficients, noise_std: float) -> Tensor | float:
        return (c.sigma * noise_std) ** 2


class EDMPrediction(Prediction):
    """The denoised image behind EDM's preconditioning (Karras et al. 2022, table 1): D = c_skip x + c_out
    F(c_in x), with

        c_skip = sd^2 / (s^2 + sd^2),   c_out = s sd / sqrt(s^2 + sd^2),   c_in = 1 / sqrt(s^2 + sd^2),

    s the noise level and sd = `sigma_data`. The network is trained as F; EDM's weight (s^2 + sd^2) / (s sd)^2
    of the error of D is weight 1 of the error of F. `max_weight` clips EDM's weight, as Relay does at 1e5.
    """

    needs_noise = preconditions = True

    def __init__(
        self,
        *,
        sigma_data: Annotated[
            float, Field(gt=0, description="standard deviation of the data's pixels")
        ] = 0.5,
        max_weight: Annotated[
            float | None, Field(gt=0, description="largest weight of the denoised image's error; null: none")
        ] = None,
    ) -> None:
        self.sigma_data, self.max_weight = sigma_data, max_weight

    def target(self, c: Coefficients, x: Tensor, data: Tensor, noise: Tensor, noise_std: float) -> Tensor:
        skip, out = self._skip_and_out(c)
        return (data - skip * x) / out

    def endpoints(self, c: Coefficients, x: Tensor, output: Tensor, noise_std: float) -> Pair:
        skip, out = self._skip_and_out(c)
        return c.endpoints_from_denoised(x, skip * x + out * output)

    def precondition(self, c: Coefficients, x: Tensor) -> Tensor:
        return x / (c.sigma**2 + self.sigma_data**2).sqrt()

    def weight(self, c: Coefficients, noise_std: float) -> Tensor | float:
        if self.max_weight is None:
            return 1.0
        _, out = self._skip_and_out(c)
        return (out**2 * self.max_weight).clamp(max=1.0)

    def _skip_and_out(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        total = c.sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, c.sigma * self.sigma_data / torch.sqrt(total)
