"""Solvers that step from what the network says of data and noise: DDIM, DDPM, Relay's, EDM's, SiT's."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal

import torch
from pydantic import Field as Setting
from torch import Tensor

from lapflow.core.backbone import VARIANCE
from lapflow.core.errors import ConfigError, SolverError
from lapflow.core.field import DenoiserField, Endpoints, TimeGrid
from lapflow.core.intervals import Segment, even_grid
from lapflow.core.path import Coefficients, forward_variance, posterior_variance
from lapflow.core.state import State, StateView
from lapflow.solvers.fixed_step import FixedSteps, Steps
from lapflow.util.random import Generators


class Denoising(FixedSteps[DenoiserField]):
    """A method of one family, one evaluation a step, on the path's own grid. From t to a later t' (primes:
    coefficients there), per band, with x1 and x0 the predicted data and noise:

        x' = alpha' x1 + sqrt(sigma'^2 - s^2) x0 + s n,        n fresh noise.

    Whatever s is in [0, sigma'], x' has the path's law if x1 and x0 are right (Song et al. 2021, "Denoising
    Diffusion Implicit Models", eq. 12, in any alpha and sigma). At the last time, where sigma' = 0, x' =
    alpha' x1. The methods differ in s.
    """

    needs, order = DenoiserField, 1
    final_noise = False
    """Whether the step into sigma = 0 draws noise too."""

    @abstractmethod
    def variances(self, c: Coefficients, after: Coefficients) -> tuple[Tensor, Tensor]:
        """(s^2 in the factor of x0, s^2 of the fresh noise), per unit of noise variance."""

    def learned(self, said: Endpoints, t_next: float) -> State | None:
        """The variances that the network has learnt, for a method that uses them."""
        return None

    def step(
        self, field: DenoiserField, state: StateView, t: float, t_next: float, generator: Generators | None
    ) -> tuple[State, int]:
        said = field.endpoints(state, t)
        now, after = field.coefficients(said.data, t), field.coefficients(said.data, t_next)
        learned = self.learned(said, t_next)
        parts: dict[int, tuple[Tensor, Tensor]] = {}
        for k in said.data:
            removed, added = self.variances(now[k], after[k])
            kept = (after[k].sigma ** 2 - removed).clamp(min=0).sqrt()
            added = added if learned is None else learned[k]
            silent = (after[k].sigma == 0) & (not self.final_noise)
            std = torch.where(silent, torch.zeros_like(added), added).clamp(min=0).sqrt()
            mean = after[k].alpha * said.data[k] + kept * said.noise[k]
            parts[k] = mean.to(said.data[k].dtype), std.to(said.data[k].dtype)
        if not self._draws(field, t, t_next, learned is not None):
            return field.to_image({k: mean for k, (mean, _) in parts.items()}), 1
        fresh = field.noise(said.data, generator)
        return field.to_image({k: mean + std * fresh[k] for k, (mean, std) in parts.items()}), 1

    def _draws(self, field: DenoiserField, t: float, t_next: float, learned: bool) -> bool:
        """Whether the step has fresh noise, found without waiting for a GPU. A learned variance is > 0."""
        after = field.alpha_sigma(t_next)
        for k, c in field.alpha_sigma(t).items():
            wanted = learned | (self.variances(c, after[k])[1] > 0)
            if bool((wanted & (self.final_noise | (after[k].sigma > 0))).any()):
                return True
        return False


class DDIM(Denoising):
    """Denoising diffusion implicit models: s^2 = eta^2 betatilde; eta 0 draws nothing, 1 is `small` DDPM."""

    def __init__(
        self,
        *,
        steps: Steps = 50,
        eta: Annotated[float, Setting(ge=0, le=1, description="share of the ancestral noise")] = 0.0,
    ) -> None:
        self.steps, self.eta = steps, eta

    def variances(self, c: Coefficients, after: Coefficients) -> tuple[Tensor, Tensor]:
        s = self.eta**2 * posterior_variance(c, after)
        return s, s


class DDPM(Denoising):
    """Ancestral sampling (Ho et al. 2020): the mean of the posterior, and a variance that is the posterior's
    (`small`), the forward step's (`large`), or `learned` (the range of Nichol & Dhariwal 2021)."""

    def __init__(
        self,
        *,
        steps: Steps = 250,
        variance: Annotated[
            Literal["small", "large", "learned"],
            Setting(description="betatilde, beta, or the network's learned range between them"),
        ] = "small",
        final_noise: Annotated[
            bool,
            Setting(description="draw noise in the last step too: exact with the optimal variance"),
        ] = False,
    ) -> None:
        self.steps, self.variance, self.final_noise = steps, variance, final_noise
        self.heads = (VARIANCE,) if variance == "learned" else ()

    def variances(self, c: Coefficients, after: Coefficients) -> tuple[Tensor, Tensor]:
        small = posterior_variance(c, after)
        return small, forward_variance(c, after) if self.variance == "large" else small

    def learned(self, said: Endpoints, t_next: float) -> State | None:
        if self.variance != "learned":
            return None
        if said.variance is None:
            raise SolverError(
                "the solver ddpm is to use a learned variance, and the network returns none",
                got="heads without `variance`",
                expected="a backbone with learn_sigma: true, trained with objective vlb",
                remedy="set sampling.solver.variance=small",
            )
        return said.variance(t_next)


class RelaySolver(Denoising):
    """Relay Diffusion's sampler (Teng et al. 2023, coefficientwise): s = `fresh_noise` sigma', so that x0
    keeps sqrt(1 - fresh_noise^2) sigma'; fresh noise of the path's own colour."""

    def __init__(
        self,
        *,
        steps: Steps = 50,
        fresh_noise: Annotated[
            float, Setting(ge=0, lt=1, description="std of fresh noise over sigma'")
        ] = 0.2,
    ) -> None:
        self.steps, self.fresh_noise = steps, fresh_noise

    def variances(self, c: Coefficients, after: Coefficients) -> tuple[Tensor, Tensor]:
        s = (self.fresh_noise * after.sigma) ** 2
        return s, s


class HeunEDM(FixedSteps[DenoiserField]):
    """Heun's rule in sigma, two evaluations a step, one into sigma = 0. For EDM's noise levels.

    EDM's second-order sampler (Karras et al. 2022, algorithm 1, without churn): with d = (dx/dt) /
    (dsigma/dt) per band, a step is x' = x + (sigma' - sigma)(d + d')/2; into sigma = 0 it is Euler's, which
    returns the denoised image. For alpha = 1, d = (x - D)/sigma.
    """

    needs, order = DenoiserField, 2

    def step(
        self, field: DenoiserField, state: StateView, t: float, t_next: float, generator: Generators | None
    ) -> tuple[State, int]:
        here, slope = _slope(field, state, t)
        now, after = field.coefficients(here, t), field.coefficients(here, t_next)
        change = {k: after[k].sigma - now[k].sigma for k in here}
        euler = field.to_image({k: (here[k] + change[k] * slope[k]).to(here[k].dtype) for k in here})
        if any(bool((c.sigma == 0).any()) for c in field.alpha_sigma(t_next).values()):
            return euler, 1
        _, second = _slope(field, euler, t_next)
        return field.to_image(
            {k: (here[k] + change[k] * (slope[k] + second[k]) / 2).to(here[k].dtype) for k in here}
        ), 2


def _slope(field: DenoiserField, state: StateView, t: float) -> tuple[State, State]:
    """The bands of a state, and dx/dsigma of each, = (dalpha/dsigma) x1 + x0."""
    said = field.endpoints(state, t)
    found = field.coefficients(said.data, t)
    bands = field.to_bands(state)
    if any(bool((c.dsigma.abs() < 1e-9).any()) for c in field.alpha_sigma(t).values()):
        raise SolverError(
            f"the noise level stands still at t = {t:g}, and heun-edm steps in it",
            expected="a path whose noise falls all the time, such as edm, edify or linear",
            remedy="use solver heun, which steps in time",
        )
    return bands, {k: (c.dalpha / c.dsigma) * said.data[k] + said.noise[k] for k, c in found.items()}


class EulerMaruyama(FixedSteps[DenoiserField]):
    """Euler-Maruyama with diffusion w = sigma, weak order 1, one evaluation a step; the last is the drift's.

    SiT's stochastic sampler (Ma et al. 2024, eq. 5 and section 3), on the reverse-time SDE

        dx = (v + w score) dt + sqrt(2 w) dW,        score = -x0 / sigma for unit noise,

    which has the ODE's marginals for every w(t) >= 0. In terms of the predicted noise the drift is v - (w /
    sigma) x0, which holds for noise of any covariance when dW has it too. `steps` points on [sampling_start,
    stop - `last`], then one step of the drift alone, of length `last`: SiT's "Mean" last step.
    """

    needs, order = DenoiserField, 1

    def __init__(
        self,
        *,
        steps: Steps = 250,
        last: Annotated[
            float, Setting(gt=0, lt=1, description="length of the last step, without noise")
        ] = 0.04,
    ) -> None:
        self.steps, self.last = steps, last

    def times(self, grid: TimeGrid, segment: Segment, steps: int) -> list[float]:
        if steps < 2:
            raise ConfigError(
                "the stochastic solver needs two points at least", got=f"steps {steps}", expected="2 or more"
            )
        late = segment.stop - self.last
        if late <= segment.sampling_start:
            raise ConfigError(
                "the last step is longer than the segment",
                got=f"last {self.last} of [{segment.sampling_start:g}, {segment.stop:g}]",
                expected="a shorter one",
                remedy="set sampling.solver.last lower",
            )
        return [*even_grid(segment.sampling_start, late, steps - 1), segment.stop]

    def step(
        self, field: DenoiserField, state: StateView, t: float, t_next: float, generator: Generators | None
    ) -> tuple[State, int]:
        h, said, bands = t_next - t, field.endpoints(state, t), field.to_bands(state)
        found = field.coefficients(said.data, t)
        moved = {
            k: bands[k] + h * (c.dalpha * said.data[k] + (c.dsigma - 1) * said.noise[k])
            for k, c in found.items()
        }
        if t_next < field.segment.stop:
            fresh = field.noise(said.data, generator)
            moved = {k: x + math.sqrt(2 * h) * found[k].sigma.sqrt() * fresh[k] for k, x in moved.items()}
        return field.to_image({k: x.to(bands[k].dtype) for k, x in moved.items()}), 1
