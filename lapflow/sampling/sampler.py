"""The sampler: start, solve each segment, cross to the next, finish; and what a solver integrates, a
network's output turned into velocities, data and noise by the flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lapflow.core.attention import Mask
from lapflow.core.backbone import VARIANCE, Backbone, Heads
from lapflow.core.condition import Condition, check_condition
from lapflow.core.errors import ConfigError
from lapflow.core.field import DenoiserField, Endpoints, Field
from lapflow.core.guidance import Guidance
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, learned_variance
from lapflow.core.solver import Observer, Solver, Statistics, call_observer
from lapflow.core.state import Shape, State, batch_size, map_state, map_times, scalar_time
from lapflow.flows.flow import Flow
from lapflow.sampling.guidance import ClassifierFreeGuidance
from lapflow.util.random import Generators, fresh_generator


@torch.inference_mode()
def sample(
    flow: Flow,
    model: Backbone,
    shape: Shape,
    *,
    condition: Condition | Tensor | None = None,
    solver: Solver | None = None,
    guidance: float | Sequence[float] | Guidance = 1.0,
    generator: Generators | None = None,
    noise: Sequence[Mapping[int, Tensor]] | None = None,
    observe: Callable[[Field], Observer] | None = None,
    statistics: list[Statistics] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw samples [b, c, *sizes] in the flow's space.

    Args:
        shape: (b, c, *sizes) of the result.
        condition: what is given of each sample; a tensor [b] stands for class indices. What is missing is
            null.
        solver: default `Dopri5()` per segment.
        guidance: the scale s of classifier-free guidance (one, or one per scale coarse to fine), or a
            `Guidance`.
        generator: one generator, or one per sample: then a sample depends on its own generator only (an
            adaptive solver's steps still depend on the whole batch). Default: torch's global generator seeds
            one.
        noise: the noise pyramids as `Flow.draw_noise` gives them, in place of drawing them.
        observe: called with each segment's field; gives the function called with (t, state) after every step.
        statistics: a list that receives each segment's work.
        device: where the state is kept; default: where the weights are. For a model that is moved when
            called.

    Raises `ConfigError` for a condition that the model does not take, or guidance that needs one.
    """
    from lapflow.solvers.adaptive import Dopri5

    parameter = next(model.parameters())
    device = parameter.device if device is None else device
    solver = Dopri5() if solver is None else solver
    guide = guidance if isinstance(guidance, Guidance) else ClassifierFreeGuidance(scale=guidance)
    solver.require(len(flow.segments))
    guide.require(flow.levels)
    wanted = Condition.of(condition)
    if not wanted.droppable and not guide.off:
        raise ConfigError(
            "guidance needs a condition to leave out",
            got="nothing given",
            expected="a condition, such as class labels [b], or guidance scale 1",
        )
    check_condition(wanted, shape[0], model.condition)
    given = Given(model, wanted.to(device))
    generator = fresh_generator() if generator is None else generator
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    if noise is None:
        noise = flow.draw_noise(shape[1:], shape[0], generator, dtype=dtype, device=device)
    result = integrate(
        flow,
        lambda segment, on: ModelField(flow, segment, shape[1:], model, given, guide, on),
        noise,
        solver,
        generator=generator,
        observe=observe,
    )
    if statistics is not None:
        statistics.extend(result.statistics)
    return flow.finish(result.state)


@dataclass(frozen=True)
class Integration:
    """The final state and the work done in each segment."""

    state: State
    statistics: tuple[Statistics, ...]

    @property
    def evaluations(self) -> int:
        return sum(s.evaluations for s in self.statistics)


def integrate(
    flow: Flow,
    field: Callable[[Segment, Condition], Field],
    noise: Sequence[Mapping[int, Tensor]],
    solver: Solver,
    *,
    generator: Generators | None = None,
    observe: Callable[[Field], Observer] | None = None,
) -> Integration:
    """Carry a batch's noise pyramids (`Flow.draw_noise`) to data.

    `field(segment, condition)` gives what is integrated in a segment, the condition being what a conditional
    bridge hands on; `observe(field)` what is called after its steps. Raises `SolverError` for a field that is
    not of the type that the solver needs.
    """
    state: State = {}
    statistics = []
    history = solver.start_history()
    for index, segment in enumerate(flow.segments):
        condition = flow.condition(index, state, noise)
        before, state = state, flow.enter(index, state, noise)
        current = field(segment, condition)
        solver.require_field(current)
        if history is not None:
            history.keep(continuous_scales(flow, index, before, state, current.mask))
        watch = None if observe is None else observe(current)
        call_observer(watch, segment.sampling_start, state, history)
        state, work = solver.solve(current, state, segment, generator, watch, history)
        statistics.append(work)
    return Integration(state, tuple(statistics))


def continuous_scales(
    flow: Flow, index: int, before: Mapping[int, Tensor], after: Mapping[int, Tensor], mask: Mask
) -> Sequence[int]:
    """The scales whose velocity is continuous where segment `index` is entered, so that a multistep solver
    keeps their history: all that were active, or none.

    `before` and `after` are the states [representation] at the end of the segment before and at the start of
    this one, `mask` is the network's. The velocity is continuous if the bridge hands on the very tensors of
    every active scale, if under mask `none`, where they depend on all scales, no scale enters, and if the
    network's time, the path's coefficients and their derivatives are the same on both sides.
    """
    kept = index > 0 and all(after.get(k) is x for k, x in before.items())
    if not kept or (mask == "none" and len(after) > len(before)):
        return ()
    left, right = flow.segments[index - 1], flow.segments[index]
    found = zip(
        _law(flow, flow.solve_t_max(left), left, left.scales),
        _law(flow, right.sampling_start, right, left.scales),
        strict=True,
    )
    return left.scales if all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in found) else ()


def _law(flow: Flow, t: float, segment: Segment, scales: Sequence[int]) -> list[Tensor]:
    """What the velocities at time `t` are made of, beside the network."""
    law = [scalar_time(t), flow.path.model_time(scalar_time(t), segment)]
    for k in scales:
        c = flow.path.coefficients(scalar_time(t), segment, k)
        law += [c.alpha, c.dalpha, c.sigma * segment.noise_scale, c.dsigma * segment.noise_scale]
    return law


class FlowField(DenoiserField):
    """The field of a flow in one segment, for something that predicts. `shape` (c, *sizes) is the whole
    sample's."""

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
    """What is given of the samples, as the network prepared it: once, for all steps and segments."""

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
