"""What the solvers with a fixed number of steps share: the option, the grid, the check of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field as Setting
from torch import Tensor

from lapflow.core.errors import ConfigError, SolverError
from lapflow.core.intervals import Segment
from lapflow.core.solver import Field

Steps = Annotated[
    Annotated[int, Setting(ge=1)] | Sequence[Annotated[int, Setting(ge=1)]],
    Setting(description="steps in each segment; a list gives one number per segment, in time order"),
]


def steps_in(steps: int | Sequence[int], segment: Segment) -> int:
    """The number of steps in a segment."""
    return steps if isinstance(steps, int) else steps[segment.index]


def require_steps(steps: int | Sequence[int], segments: int) -> None:
    """Raises `ConfigError` unless `steps` fits a composition of `segments` segments."""
    if not isinstance(steps, int) and len(steps) != segments:
        raise ConfigError(
            "solver.steps must name every segment",
            got=f"{len(steps)} numbers for {segments} segments",
            expected="one number per segment, in time order, or a single number",
        )


def finite_grid(field: Field, steps: int) -> list[float]:
    """The field's grid, from where the segment is entered to the last time at which the velocity is finite."""
    grid, begin = field.grid(steps), field.segment.begin
    stop = min(field.end, grid[-1])
    return [begin, *(t for t in grid[1:] if begin < t < stop - 1e-12), stop]


def require_finite(state: Mapping[int, Tensor], segment: Segment) -> None:
    """Raises `SolverError` naming the scale if a state at the end of `segment` is not finite (one synchronisation)."""
    for k, x in state.items():
        if not bool(torch.isfinite(x).all()):
            raise SolverError(
                f"the state of scale {k} is not finite at the end of segment {segment.index}",
                got=f"{int((~torch.isfinite(x)).sum())} of {x.numel()} values",
                expected="finite values",
                remedy="take more steps, a lower guidance scale, float32, or look for a diverged training run",
            )
