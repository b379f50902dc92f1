"""The sampler: in each segment the tokens of the scale in progress are drawn, all at once, given the coarser
scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field as Setting
from torch import Tensor

from lapflow.core.errors import SolverError
from lapflow.core.field import DenoiserField
from lapflow.core.intervals import Segment
from lapflow.core.solver import History, Observer, Solver, Statistics
from lapflow.core.state import State
from lapflow.util.random import Generators, rand
from varlap.network import CODES, LOGITS
from varlap.quantiser import unblocks


class DrawTokens(Solver[DenoiserField]):
    """One step and one evaluation a segment, whatever the segment's length."""

    needs, order = DenoiserField, 1
    heads = (LOGITS, CODES)

    def __init__(
        self,
        *,
        temperature: Annotated[float, Setting(gt=0, description="divides the logits")] = 1.0,
        top: Annotated[int | None, Setting(ge=1, description="likeliest tokens to draw among")] = None,
    ) -> None:
        self.temperature, self.top = temperature, top

    def solve(
        self,
        field: DenoiserField,
        state: Mapping[int, Tensor],
        segment: Segment,
        generator: Generators | None = None,
        observe: Observer | None = None,
        history: History | None = None,
    ) -> tuple[State, Statistics]:
        heads, k = field.predict(state, segment.sampling_start), segment.finest
        logits, codes, band = heads[LOGITS][k], heads[CODES][k], state[k]
        if not bool(torch.isfinite(logits).all()):
            raise SolverError(
                f"the logits of scale {k} are not finite",
                expected="finite values",
                remedy="look for a diverged training run",
            )
        tokens = self.draw(logits, torch.default_generator if generator is None else generator)
        rows = codes.gather(1, tokens.flatten(1)[..., None].expand(-1, -1, codes.shape[-1]))
        vectors = rows.transpose(1, 2).unflatten(-1, tokens.shape[1:])
        drawn = {**state, k: unblocks(vectors, band.shape[-1] // tokens.shape[-1]).to(band.dtype)}
        if observe is not None:
            observe(segment.stop, drawn)
        return drawn, Statistics(evaluations=1, steps=1)

    def draw(self, logits: Tensor, generator: Generators) -> Tensor:
        """Tokens [b, h, w] by the logits [b, v, h, w]: where a uniform number falls among the summed
        probabilities."""
        logits = logits.float() / self.temperature
        if self.top is not None and self.top < logits.shape[1]:
            least = logits.topk(self.top, dim=1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        below = logits.softmax(1).cumsum(1)
        uniform = rand(
            (len(logits), 1, *logits.shape[2:]), generator, dtype=torch.float32, device=logits.device
        )
        return (below < uniform * below[:, -1:]).sum(1).clamp(max=logits.shape[1] - 1)
