"""A composition as a solver sees it: what the network says, turned into velocities, data and noise by the
flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lapflow.core.backbone import VARIANCE, Backbone, Condition, Heads
from lapflow.core.field import DenoiserField, Endpoints
from lapflow.core.flow import Flow
from lapflow.core.guidance import Guidance
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, learned_variance
from lapflow.core.random import Generators
from lapflow.core.state import Shape, State, batch_size, clock, map_state, map_times


class FlowField(DenoiserField):
    """The field of a flow in one segment, for something that predicts; `shape` is that of the whole sample,
    (c, *sizes)."""

    def __init__(self, flow: Flow, segment: Segment, shape: Shape, end: float = 1.0) -> None:
        self.flow, self.segment, self.shape = flow, segment, shape
        self.end = min(flow.last(segment), end)

    def velocity(self, state: Mapping[int, Tensor], t: float) -> State:
        return self.flow.velocity(self.predict(state, t)["main"], state, clock(t), self.segment)

    def grid(self, steps: int) -> list[float]:
        return self.flow.path.grid(self.segment, steps)

    def endpoints(self, state: Mapping[int, Tensor], t: float) -> Endpoints:
        heads = self.predict(state, t)
        data, noise = self.flow.endpoints(heads["main"], state, clock(t), self.segment)
        if VARIANCE not in heads:
            return Endpoints(data, noise)
        output = self.split(heads[VARIANCE])

        def variance(t_next: float) -> State:
            now, after = self.coefficients(data, t), self.coefficients(data, t_next)
            return {k: learned_variance(output[k], now[k], after[k]).to(data[k].dtype) for k in data}

        return Endpoints(data, noise, variance)

    def split(self, state: Mapping[int, Tensor]) -> State:
        return self.flow.split(state, self.segment)

    def show(self, bands: Mapping[int, Tensor]) -> State:
        return self.flow.show(bands, self.segment)

    def law(self, t: float) -> dict[int, Coefficients]:
        return {k: self.flow.path.coefficients(clock(t), self.segment, k) for k in self.segment.scales}

    def noise(self, bands: Mapping[int, Tensor], generator: Generators | None) -> State:
        generator = torch.default_generator if generator is None else generator
        first = next(iter(bands.values()))
        finest = self.flow.pyramids()[self.flow.bridge.pyramid(self.segment)]
        drawn = self.flow.noise.draw(
            self.shape, len(first), generator, dtype=first.dtype, device=first.device, finest=finest
        )
        return {k: drawn[k] * self.segment.unit for k in bands}


class ModelField(FlowField):
    """A backbone with a condition and guidance. The null class gives the unconditional prediction, in one
    batched call."""

    def __init__(
        self,
        flow: Flow,
        segment: Segment,
        shape: Shape,
        model: Backbone,
        condition: Condition,
        guidance: Guidance,
    ) -> None:
        super().__init__(flow, segment, shape)
        self.model, self.condition, self.guidance = model, condition, guidance
        self.mask, self.dtype = model.mask, next(model.parameters()).dtype

    def predict(self, state: Mapping[int, Tensor], t: float) -> Heads:
        labels = self.condition.labels
        if labels is None or not self.guidance.active(t):
            return self._predict(state, t, self.condition)
        null = replace(self.condition, labels=torch.full_like(labels, self.model.num_classes))
        heads = self._predict(map_state(lambda x: torch.cat([x, x]), state), t, _both(self.condition, null))
        n = batch_size(state)
        guided = {name: map_state(lambda v: v[:n], head) for name, head in heads.items()}
        for name in self.model.guided:
            guided[name] = self.guidance.combine(
                guided[name], map_state(lambda v: v[n:], heads[name]), self.flow.levels
            )
        return guided

    def _predict(self, state: Mapping[int, Tensor], t: float, condition: Condition) -> Heads:
        first = next(iter(state.values()))
        given = self.flow.network_input(state, clock(t), self.segment)
        n, device = first.shape[0], first.device
        times = map_times(
            lambda time: torch.full((n,), float(time), dtype=torch.float32, device=device),
            self.flow.model_time(clock(t), self.segment),
        )
        heads = self.model(map_state(lambda x: x.to(self.dtype), given), times, condition)
        return {name: map_state(lambda v, x: v.to(x.dtype), head, state) for name, head in heads.items()}


def _both(first: Condition, second: Condition) -> Condition:
    """The conditions of a doubled batch."""

    def join(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.cat([a, b])

    image = (
        None
        if first.image is None or second.image is None
        else map_state(lambda a, b: torch.cat([a, b]), first.image, second.image)
    )
    return Condition(join(first.labels, second.labels), image, join(first.level, second.level))
