"""The sampler: start, solve each segment, cross to the next, finish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lapflow.core.backbone import Backbone, Condition
from lapflow.core.errors import ConfigError
from lapflow.core.field import Field
from lapflow.core.guidance import Guidance
from lapflow.core.intervals import Segment
from lapflow.core.solver import Observer, Solver, Statistics, call_observer
from lapflow.core.state import Shape, State
from lapflow.flows.flow import Flow
from lapflow.sampling.continuity import continuous_scales
from lapflow.sampling.field import ModelField
from lapflow.sampling.guidance import ClassifierFreeGuidance
from lapflow.util.random import Generators, fresh_generator
from lapflow.util.transfer import upload


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
    labels: Tensor | None = None,
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
        labels: [b] class labels in [0, num_classes); None draws from the null class.
        solver: default `Dopri5()` per segment.
        guidance: the scale s of classifier-free guidance (one, or one per scale coarse to fine), or a
        `Guidance`.
        generator: one generator, or one per sample: then a sample depends on its own generator only (an
        adaptive
            solver's steps still depend on the whole batch). Default: torch's global generator seeds one.
        noise: the noise pyramids as `Flow.draw_noise` gives them, in place of drawing them.
        observe: called with each segment's field; gives the function called with (t, state) after every step.
        statistics: a list that receives each segment's work.
        device: where the state is kept; default: where the model's weights are. For a model that is moved
        when it is called.

    Raises `ConfigError` for labels out of range, labels of an unconditional model, or guidance that needs
    labels.
    """
    from lapflow.solvers.adaptive import Dopri5

    parameter = next(model.parameters())
    device = parameter.device if device is None else device
    solver = Dopri5() if solver is None else solver
    guide = guidance if isinstance(guidance, Guidance) else ClassifierFreeGuidance(scale=guidance)
    solver.require(len(flow.segments))
    guide.require(flow.levels)
    labels = check_labels(labels, shape[0], model.num_classes, guide)
    labels = None if labels is None else upload(labels, device)
    generator = fresh_generator() if generator is None else generator
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    if noise is None:
        noise = flow.draw_noise(shape[1:], shape[0], generator, dtype=dtype, device=device)
    result = integrate(
        flow,
        lambda segment, condition: ModelField(
            flow, segment, shape[1:], model, replace(condition, labels=labels), guide
        ),
        noise,
        solver,
        generator=generator,
        observe=observe,
    )
    if statistics is not None:
        statistics.extend(result.statistics)
    return flow.finish(result.state)


def check_labels(labels: Tensor | None, batch: int, num_classes: int, guidance: Guidance) -> Tensor | None:
    """The labels, checked against the batch, the model's classes and the guidance. Raises `ConfigError`."""
    if labels is None:
        if not guidance.off:
            raise ConfigError(
                "guidance needs class labels", got="no labels", expected="labels [b], or guidance scale 1"
            )
        return None
    if num_classes == 0:
        raise ConfigError("this model has no classes", got="labels", expected="no labels")
    if labels.shape != (batch,) or labels.dtype != torch.int64:
        raise ConfigError(
            "labels must be one class index per sample",
            got=f"{labels.dtype} of shape {tuple(labels.shape)}",
            expected=f"torch.int64 of shape ({batch},)",
        )
    outside = labels[(labels < 0) | (labels > num_classes)]
    if outside.numel():
        raise ConfigError(
            "a class is out of range",
            got=int(outside[0]),
            expected=f"0 to {num_classes - 1} ({num_classes} is the null class)",
        )
    return labels
