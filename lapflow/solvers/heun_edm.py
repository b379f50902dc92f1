"""EDM's second-order sampler (Karras et al. 2022, algorithm 1, without churn): Heun's rule in the noise level.

With d = (dx/dt) / (dsigma/dt) per band, a step is x' = x + (sigma' - sigma)(d + d')/2; into sigma = 0 it is Euler's, which
returns the denoised image. For alpha = 1, d = (x - D)/sigma.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor

from lapflow.core.intervals import Segment
from lapflow.core.random import Generators
from lapflow.core.solver import Field, Observer, Solver, Statistics
from lapflow.core.state import State
from lapflow.solvers.steps import Steps, require_finite, require_steps, steps_in


class HeunEDM(Solver):
    """Heun's rule in sigma, two evaluations a step; the step into sigma = 0 takes one. For paths with EDM's noise levels."""

    order = 2

    def __init__(self, *, steps: Steps = 18) -> None:
        self.steps = steps

    def require(self, segments: int) -> None:
        require_steps(self.steps, segments)

    def solve(
        self,
        field: Field,
        state: Mapping[int, Tensor],
        segment: Segment,
        generator: Generators | None = None,
        observe: Observer | None = None,
    ) -> tuple[State, Statistics]:
        grid = field.grid(steps_in(self.steps, segment))
        current, evaluations = dict(state), 0
        for t, t_next in pairwise(grid):
            here, slope = _slope(field, current, t)
            after = field.coefficients(here, t_next)
            now = field.coefficients(here, t)
            step = {k: after[k].sigma - now[k].sigma for k in here}
            euler = {k: (here[k] + step[k] * slope[k]).to(here[k].dtype) for k in here}
            evaluations += 1
            if all(bool((c.sigma > 0).all()) for c in after.values()):
                _, second = _slope(field, field.show(euler), t_next)
                euler = {k: (here[k] + step[k] * (slope[k] + second[k]) / 2).to(here[k].dtype) for k in here}
                evaluations += 1
            current = field.show(euler)
            if observe is not None:
                observe(t_next, current)
        require_finite(current, segment)
        return current, Statistics(evaluations, len(grid) - 1)


def _slope(field: Field, state: Mapping[int, Tensor], t: float) -> tuple[State, State]:
    """The bands of a state, and dx/dsigma of each, = (dalpha/dsigma) x1 + x0."""
    said = field.endpoints(state, t)
    found = field.coefficients(said.data, t)
    bands = field.split(state)
    return bands, {k: (c.dalpha / c.dsigma) * said.data[k] + said.noise[k] for k, c in found.items()}
