"""EDM's second-order sampler (Karras et al. 2022, algorithm 1, without churn): Heun's rule in the noise
level.

With d = (dx/dt) / (dsigma/dt) per band, a step is x' = x + (sigma' - sigma)(d + d')/2; into sigma = 0 it is
Euler's, which returns the denoised image. For alpha = 1, d = (x - D)/sigma.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lapflow.core.errors import SolverError
from lapflow.core.field import DenoiserField
from lapflow.core.solver import History
from lapflow.core.state import State
from lapflow.solvers.steps import FixedSteps
from lapflow.util.random import Generators


class HeunEDM(FixedSteps[DenoiserField]):
    """Heun's rule in sigma, two evaluations a step; the step into sigma = 0 takes one. For paths with EDM's
    noise levels."""

    needs, order = DenoiserField, 2

    def step(
        self,
        field: DenoiserField,
        state: Mapping[int, Tensor],
        t: float,
        t_next: float,
        generator: Generators | None,
        history: History | None = None,
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


def _slope(field: DenoiserField, state: Mapping[int, Tensor], t: float) -> tuple[State, State]:
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
