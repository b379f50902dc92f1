"""The sampler: start, solve each segment, cross to the next, finish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lapflow.core.backbone import Backbone
from lapflow.core.condition import Condition, Specs, check_condition
from lapflow.core.errors import ConfigError
from lapflow.core.field import Field
from lapflow.core.guidance import Guidance
from lapflow.core.intervals import Segment
from lapflow.core.solver import Observer, Solver, Statistics, call_observer
from lapflow.core.state import Shape, State
from lapflow.flows.flow import Flow
from lapflow.sampling.continuity import continuous_scales
from lapflow.sampling.field import Given, ModelField
from lapflow.sampling.guidance import ClassifierFreeGuidance
from lapflow.util.random import Generators, fresh_generator


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
        condition: what is given of each sample; a tensor [b] stands for class indices. What is missing
            is null.
        solver: default `Dopri5()` per segment.
        guidance: the scale s of classifier-free guidance (one, or one per scale coarse to fine), or a
            `Guidance`.
        generator: one generator, or one per sample: then a sample depends on its own generator only (an
            adaptive solver's steps still depend on the whole batch). Default: torch's global generator seeds
            one.
        noise: the noise pyramids as `Flow.draw_noise` gives them, in place of drawing them.
        observe: called with each segment's field; gives the function called with (t, state) after every step.
        statistics: a list that receives each segment's work.
        device: where the state is kept; default: where the model's weights are. For a model that is moved
            when it is called.

    Raises `ConfigError` for a condition that the model does not take, or guidance that needs one.
    """
    from lapflow.solvers.adaptive import Dopri5

    parameter = next(model.parameters())
    device = parameter.device if device is None else device
    solver = Dopri5() if solver is None else solver
    guide = guidance if isinstance(guidance, Guidance) else ClassifierFreeGuidance(scale=guidance)
    solver.require(len(flow.segments))
    guide.require(flow.levels)
    wanted = _checked(Condition.of(condition), shape[0], model.condition, guide).to(device)
    prepared = Given(model, wanted)
    generator = fresh_generator() if generator is None else generator
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    if noise is None:
        noise = flow.draw_noise(shape[1:], shape[0], generator, dtype=dtype, device=device)
    result = integrate(
        flow,
        lambda segment, on: ModelField(flow, segment, shape[1:], model, prepared, guide, on),
        noise,
        solver,
        generator=generator,
        observe=observe,
    )
    if statistics is not None:
        statistics.extend(result.statistics)
    return flow.finish(result.state)


def _checked(given: Condition, batch: int, known: Specs, guidance: Guidance) -> Condition:
    """What is given, checked against the batch, the network and the guidance. Raises `ConfigError`."""
    if not given.droppable and not guidance.off:
        raise ConfigError(
            "guidance needs a condition to leave out",
            got="nothing given",
            expected="a condition, such as class labels [b], or guidance scale 1",
        )
    check_condition(given, batch, known)
    return given
