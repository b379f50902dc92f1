"""How often a solver evaluates a composition: it is run, on the smallest sample, with a network that says
nothing.

So the work comes from the solver's own steps, the path's own grid and the bridges, and nothing restates them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lapflow.core.backbone import MAIN, Heads
from lapflow.core.condition import Condition
from lapflow.core.intervals import Segment
from lapflow.core.solver import Solver
from lapflow.core.state import Shape, map_state
from lapflow.flows.flow import Flow
from lapflow.sampling.sampler import FlowField, integrate
from lapflow.util.random import keyed_generator


class _Silent(FlowField):
    """Predicts zeros in every head that the solver reads, and keeps the times at which it was asked."""

    def __init__(self, flow: Flow, segment: Segment, shape: Shape, heads: tuple[str, ...]) -> None:
        super().__init__(flow, segment, shape)
        self.heads, self.times = (MAIN, *heads), list[float]()

    def predict(self, state: Mapping[int, Tensor], t: float) -> Heads:
        self.times.append(t)
        return {head: map_state(torch.zeros_like, state) for head in self.heads}


def evaluation_times(flow: Flow, solver: Solver) -> list[list[float]] | None:
    """The times at which sampling evaluates the network, segment by segment; None for a solver that
    chooses its steps by what it finds. Guidance doubles an evaluation and does not add one."""
    if not solver.fixed_work:
        return None
    shape = flow.decomposition.smallest
    fields: list[_Silent] = []

    def field(segment: Segment, condition: Condition) -> _Silent:
        fields.append(_Silent(flow, segment, shape, solver.heads))
        return fields[-1]

    generator = keyed_generator("rehearsal")
    noise = flow.draw_noise(shape, 1, generator, dtype=torch.float64, device="cpu")
    integrate(flow, field, noise, solver, generator=generator)
    return [f.times for f in fields]
