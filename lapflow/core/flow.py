"""The mathematics of a composition: the only place where a training pair is made and where a sampler's state starts,
crosses from segment to segment and ends, so that training and sampling cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lapflow.core.backbone import Heads
from lapflow.core.bridge import Bridge
from lapflow.core.decomposition import Band, Decomposition
from lapflow.core.errors import ConfigError, suggest
from lapflow.core.intervals import Draw, IntervalSchedule, Segment
from lapflow.core.noise import NOISES, NoiseName
from lapflow.core.objective import Objective, VelocityMSE
from lapflow.core.path import Path
from lapflow.core.random import Generators, first_generator
from lapflow.core.state import State, take_rows

if TYPE_CHECKING:
    from lapflow.core.laws import LawReport


@dataclass(frozen=True)
class TrainingPoint:
    """A training pair: the samples `index` of the batch (None: all) at times `t` in `segment`.

    `state`, `target` (the velocity), `data` (x1) and `noise` (x0) map the active scales to [n, c_k, h_k, w_k];
    `t` is [n]; `weights` are per scale; `fraction` is n over the batch size.
    """

    state: State
    t: Tensor
    target: State
    weights: dict[int, float]
    segment: Segment
    data: State
    noise: State
    index: Tensor | None
    fraction: float


class Flow:
    """decomposition + intervals + path + bridge (+ the kind of noise, + what training minimises).

    The law check (`lapflow.core.laws`) runs when a Flow is made and raises `LawError` for a composition whose sampler
    would not follow the law that training assumes. `check=False` skips it, to study such a composition.
    """

    def __init__(
        self,
        decomposition: Decomposition,
        intervals: IntervalSchedule,
        path: Path,
        bridge: Bridge,
        *,
        noise: NoiseName = "decomposed",
        objective: Objective | None = None,
        check: bool = True,
    ) -> None:
        if noise not in NOISES:
            raise ConfigError("unknown noise", got=repr(noise), expected=suggest(str(noise), NOISES))
        self.decomposition, self.intervals, self.path, self.bridge = decomposition, intervals, path, bridge
        self.noise = NOISES[noise](decomposition)
        self.objective = objective or VelocityMSE()
        self.levels = decomposition.levels
        self.segments = intervals.segments(self.levels)
        if check:
            self.laws().require()

    def laws(self) -> LawReport:
        """The law check's report: prior, bridges and end, per segment and band."""
        from lapflow.core.laws import check_laws

        return check_laws(self)

    def bands(self, shape: tuple[int, int, int]) -> dict[int, Band]:
        """The bands of an image of `shape` (c, h, w), coarse to fine."""
        return self.decomposition.bands(shape)

    # ------------------------------------------------------------------ training

    def training_points(
        self,
        x: Tensor,
        generator: Generators,
        stage_generator: torch.Generator | None = None,
    ) -> list[TrainingPoint]:
        """The training pairs of a batch `x` [b, c, h, w]; each sample is in exactly one of them.

        Draws, in this order: what is common to the batch, from `stage_generator` (default: the first of `generator`);
        then each sample's time and noise, from `generator`.
        """
        stage = first_generator(generator) if stage_generator is None else stage_generator
        batch, dtype = x.shape[0], torch.float64 if x.dtype == torch.float64 else torch.float32
        draws = self.intervals.draw(
            self.segments, batch, generator=generator, stage_generator=stage, end=self.path.end, dtype=dtype, device=x.device
        )
        data = self.decomposition.analyze(x)
        noise = self.noise.draw((x.shape[1], x.shape[2], x.shape[3]), batch, generator, dtype=x.dtype, device=x.device)
        return [self._point(data, noise, draw, batch) for draw in draws]

    def training_point(self, x: Tensor, generator: Generators, stage_generator: torch.Generator | None = None) -> TrainingPoint:
        """The one training pair of a batch, for a schedule that draws one segment per batch."""
        points = self.training_points(x, generator, stage_generator)
        if len(points) != 1:
            raise ConfigError(
                "this schedule draws several segments per batch",
                got=f"{len(points)} training pairs",
                expected="one",
                remedy="use training_points and sum flow.loss(...) * point.fraction",
            )
        return points[0]

    def _point(self, data: Mapping[int, Tensor], noise: Mapping[int, Tensor], draw: Draw, batch: int) -> TrainingPoint:
        scales = draw.segment.scales
        data, noise = {k: data[k] for k in scales}, {k: noise[k] for k in scales}
        if draw.index is not None:
            data, noise = take_rows(data, draw.index), take_rows(noise, draw.index)
        state, target = self.interpolate(data, noise, draw.t, draw.segment)
        weights = {k: self.intervals.scale_weight(k, self.levels) for k in scales}
        return TrainingPoint(state, draw.t, target, weights, draw.segment, data, noise, draw.index, draw.t.shape[0] / batch)

    def interpolate(self, data: Mapping[int, Tensor], noise: Mapping[int, Tensor], t: Tensor, segment: Segment) -> tuple[State, State]:
        """(state, velocity) of the segment's scales at times `t` (scalar or [b]): x = alpha x1 + sigma x0 and its d/dt."""
        state, target = {}, {}
        for k in segment.scales:
            c = self.path.coefficients(t, segment, k).expand(data[k])
            state[k] = c.position(data[k], noise[k]).to(data[k].dtype)
            target[k] = c.velocity(data[k], noise[k]).to(data[k].dtype)
        return state, target

    def loss(self, heads: Heads, point: TrainingPoint) -> Tensor:
        """The objective's total for one training pair, a scalar."""
        return torch.stack(list(self.objective(heads, point).values())).sum()

    # ------------------------------------------------------------------ sampling

    def enter(self, index: int, state: Mapping[int, Tensor], noise: Mapping[int, Tensor]) -> State:
        """The state at the start of segment `index`, from the state at the end of the one before (empty for the first)
        and the sample's whole noise pyramid."""
        before = self.segments[index - 1] if index else None
        return self.bridge.cross(state, noise, before, self.segments[index], self.path)

    def finish(self, state: Mapping[int, Tensor]) -> Tensor:
        """The image [b, c, h, w] that the final state stands for."""
        return self.decomposition.synthesize(state)
