"""A composition as a solver sees it: what the network says, turned into velocities, data and noise by the
flow."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from lapflow.core.backbone import VARIANCE, Backbone, Heads
from lapflow.core.condition import Condition
from lapflow.core.field import DenoiserField, Endpoints
from lapflow.core.guidance import Guidance
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, learned_variance
from lapflow.core.state import Shape, State, batch_size, map_state, map_times, scalar_time
from lapflow.flows.flow import Flow
from lapflow.util.random import Generators


class FlowField(DenoiserField):
    """The field of a flow in one segment, for something that predicts; `shape` is that of the whole sample,
    (c, *sizes)."""

    def __init__(self, flow: Flow, segment: Segment, shape: Shape, solve_t_max: float = 1.0) -> None:
        self.flow, self.segment, self.shape = flow, segment, shape
        self.solve_t_max = min(flow.solve_t_max(segment), solve_t_max)

    def velocity(self, state: Mapping[int, Tensor], t: float) -> State:
        return self.flow.velocity(self.predict(state, t)["main"], state, scalar_time(t), self.segment)

    def grid(self, steps: int) -> list[float]:
        return self.flow.path.grid(self.segment, steps)

    def endpoints(self, state: Mapping[int, Tensor], t: float) -> Endpoints:
        heads = self.predict(state, t)
        data, noise = self.flow.endpoints(heads["main"], state, scalar_time(t), self.segment)
        if VARIANCE not in heads:
            return Endpoints(data, noise)
        output = self.to_bands(heads[VARIANCE])

        def variance(t_next: float) -> State:
            now, after = self.coefficients(data, t), self.coefficients(data, t_next)
            return {k: learned_variance(output[k], now[k], after[k]).to(data[k].dtype) for k in data}

        return Endpoints(data, noise, variance)

    def to_bands(self, state: Mapping[int, Tensor]) -> State:
        return self.flow.to_bands(state, self.segment)

    def to_image(self, bands: Mapping[int, Tensor]) -> State:
        return self.flow.to_image(bands, self.segment)

    def alpha_sigma(self, t: float) -> dict[int, Coefficients]:
        return {k: self.flow.path.coefficients(scalar_time(t), self.segment, k) for k in self.segment.scales}

    def noise(self, bands: Mapping[int, Tensor], generator: Generators | None) -> State:
        generator = torch.default_generator if generator is None else generator
        first = next(iter(bands.values()))
        finest = self.flow.finest_noise_scales()[self.flow.bridge.noise_index(self.segment)]
        drawn = self.flow.noise.draw(
            self.shape, len(first), generator, dtype=first.dtype, device=first.device, finest=finest
        )
        return {k: drawn[k] * self.segment.noise_scale for k in bands}


class Given:
    """What is given of the samples of a sampling, as the network prepared it: once, for all steps and
    segments."""

    def __init__(self, model: Backbone, condition: Condition) -> None:
        self.model, self.condition = model, condition

    @cached_property
    def alone(self) -> Condition:
        """The condition."""
        return self.model.prepare(self.condition) if self.condition.droppable else self.condition

    @cached_property
    def paired(self) -> Condition:
        """The condition and its null, as one batch."""
        return self.model.prepare(self.condition.join(self.condition.null()))


class ModelField(FlowField):
    """A backbone with what is given and guidance; `handed_on` is what a cascade's bridge gives. The
    condition's null gives the unconditional prediction, in one batched call."""

    def __init__(
        self,
        flow: Flow,
        segment: Segment,
        shape: Shape,
        model: Backbone,
        given: Given,
        guidance: Guidance,
        handed_on: Condition | None = None,
    ) -> None:
        super().__init__(flow, segment, shape)
        self.model, self.given, self.guidance = model, given, guidance
        self.handed_on = handed_on or Condition()
        self.mask = getattr(model, "mask", "none")  # of a network that is no Backbone: always safe
        self.dtype = next(model.parameters()).dtype

    def predict(self, state: Mapping[int, Tensor], t: float) -> Heads:
        on = self.handed_on
        if not self.given.condition.droppable or not self.guidance.active(t):
            return self._predict(state, t, self.given.alone | on)
        heads = self._predict(
            map_state(lambda x: torch.cat([x, x]), state), t, self.given.paired | on.join(on)
        )
        n = batch_size(state)
        guided = {name: map_state(lambda v: v[:n], head) for name, head in heads.items()}
        for name in self.model.guided:
            guided[name] = self.guidance.combine(
                guided[name], map_state(lambda v: v[n:], heads[name]), self.flow.levels
            )
        return guided

    def _predict(self, state: Mapping[int, Tensor], t: float, condition: Condition) -> Heads:
        first = next(iter(state.values()))
        given = self.flow.network_input(state, scalar_time(t), self.segment)
        n, device = first.shape[0], first.device
        times = map_times(
            lambda time: torch.full((n,), float(time), dtype=torch.float32, device=device),
            self.flow.model_time(scalar_time(t), self.segment),
        )
        heads = self.model(map_state(lambda x: x.to(self.dtype), given), times, condition)
        return {name: map_state(lambda v, x: v.to(x.dtype), head, state) for name, head in heads.items()}
