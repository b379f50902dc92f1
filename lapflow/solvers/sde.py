"""SiT's stochastic sampler (Ma et al. 2024, eq. 5 and section 3): Euler-Maruyama on the reverse-time SDE

    dx = (v + w score) dt + sqrt(2 w) dW,        score = -x0 / sigma for unit noise,

which has the ODE's marginals for every w(t) >= 0; here w = sigma. In terms of the predicted noise the drift is
v - (w / sigma) x0, which holds for noise of any covariance when dW has it too. `steps` points on [begin, stop - `last`], then one
step of the drift alone, of length `last`: SiT's "Mean" last step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

from pydantic import Field as Setting
from torch import Tensor

from lapflow.core.errors import ConfigError
from lapflow.core.intervals import Segment, even_grid
from lapflow.core.random import Generators
from lapflow.core.solver import Field, Observer, Solver, Statistics
from lapflow.core.state import State
from lapflow.solvers.steps import Steps, require_finite, require_steps, steps_in


class EulerMaruyama(Solver):
    """Euler-Maruyama with diffusion w = sigma, weak order 1, one evaluation a step, and a last step of the drift."""

    order = 1

    def __init__(
        self,
        *,
        steps: Steps = 250,
        last: Annotated[float, Setting(gt=0, lt=1, description="length of the last step, without noise")] = 0.04,
    ) -> None:
        self.steps, self.last = steps, last

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
        late = segment.stop - self.last
        if late <= segment.begin:
            raise ConfigError(
                "the last step is longer than the segment",
                got=f"last {self.last} of [{segment.begin:g}, {segment.stop:g}]",
                remedy="set it lower",
            )
        count = steps_in(self.steps, segment)
        grid = [*even_grid(segment.begin, late, max(count - 1, 1)), segment.stop]
        current = dict(state)
        for i, (t, t_next) in enumerate(pairwise(grid)):
            h = t_next - t
            said = field.endpoints(current, t)
            found, bands = field.coefficients(said.data, t), field.split(current)
            drift = {k: c.dalpha * said.data[k] + (c.dsigma - 1) * said.noise[k] for k, c in found.items()}
            moved = {k: bands[k] + h * drift[k] for k in bands}
            if i < len(grid) - 2:
                fresh = field.noise(said.data, generator)
                moved = {k: x + math.sqrt(2 * h) * found[k].sigma.sqrt() * fresh[k] for k, x in moved.items()}
            current = field.show({k: x.to(bands[k].dtype) for k, x in moved.items()})
            if observe is not None:
                observe(t_next, current)
        require_finite(current, segment)
        return current, Statistics(evaluations=len(grid) - 1, steps=len(grid) - 1)
