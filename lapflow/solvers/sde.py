"""SiT's stochastic sampler (Ma et al. 2024, eq. 5 and section 3): Euler-Maruyama on the reverse-time SDE

    dx = (v + w score) dt + sqrt(2 w) dW,        score = -x0 / sigma for unit noise,

which has the ODE's marginals for every w(t) >= 0; here w = sigma. In terms of the predicted noise the drift
is v - (w / sigma) x0, which holds for noise of any covariance when dW has it too. `steps` points on
[sampling_start, stop - `last`], then one step of the drift alone, of length `last`: SiT's "Mean" last step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field as Setting
from torch import Tensor

from lapflow.core.errors import ConfigError
from lapflow.core.field import DenoiserField, TimeGrid
from lapflow.core.intervals import Segment, even_grid
from lapflow.core.solver import History
from lapflow.core.state import State
from lapflow.solvers.steps import FixedSteps, Steps
from lapflow.util.random import Generators


class EulerMaruyama(FixedSteps[DenoiserField]):
    """Euler-Maruyama with diffusion w = sigma, weak order 1, one evaluation a step, and a last step of the
    drift."""

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
        self,
        field: DenoiserField,
        state: Mapping[int, Tensor],
        t: float,
        t_next: float,
        generator: Generators | None,
        history: History | None = None,
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
