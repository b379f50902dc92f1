"""Euler's method."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field as Setting
from torch import Tensor

from lapflow.core.errors import SolverError
from lapflow.core.field import Field
from lapflow.core.intervals import Segment
from lapflow.core.solver import History, Observer, Solver, Statistics
from lapflow.core.state import State, map_state
from lapflow.util.random import Generators


class Skeleton(Solver[Field]):
    """x' = x + (t' - t) v(x, t): order 1, one evaluation a step."""

    order = 1

    def __init__(
        self, *, steps: Annotated[int, Setting(ge=1, description="steps in each segment")] = 20
    ) -> None:
        self.steps = steps

    def solve(
        self,
        field: Field,
        state: Mapping[int, Tensor],
        segment: Segment,
        generator: Generators | None = None,
        observe: Observer | None = None,
        history: History | None = None,
    ) -> tuple[State, Statistics]:
        stop = min(field.solve_t_max, segment.stop)
        times = [*(t for t in field.grid(self.steps) if t < stop), stop]
        x = dict(state)
        for t, after in pairwise(times):
            x = map_state(lambda a, v, h=after - t: a + h * v, x, field.velocity(x, t))
            if observe is not None:
                observe(after, x)
        if not all(bool(torch.isfinite(a).all()) for a in x.values()):
            raise SolverError(
                f"the state is not finite at the end of segment {segment.index}", expected="finite values"
            )
        return x, Statistics(evaluations=len(times) - 1, steps=len(times) - 1)
