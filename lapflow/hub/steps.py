"""What happens after each of the solver's steps: the progress bar, the caller's callback, a changed guidance,
an interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from lapflow.core.errors import ConfigError
from lapflow.core.field import Field
from lapflow.core.guidance import Guidance
from lapflow.core.intervals import Segment
from lapflow.core.solver import Observer, Solver
from lapflow.core.state import Shape, State
from lapflow.flows.flow import Flow
from lapflow.sampling.sampler import ModelField

Callback = Callable[[Any, int, float, dict[str, Any]], Mapping[str, Any] | None]
"""Called with the pipeline, the step, the time reached, and the tensors asked for; gives those to change."""
LATENTS = "latents"


class Interrupted(Exception):  # noqa: N818 (not an error)
    """Ends a sampling run at `state`, in `segment`, because the pipeline was interrupted."""

    def __init__(self, state: State, segment: Segment) -> None:
        super().__init__("interrupted")
        self.state, self.segment = state, segment


def planned_steps(flow: Flow, solver: Solver) -> int:
    """The steps that a progress bar counts: a fixed-step solver's in all segments; else the segments, whose
    steps nobody knows."""
    steps = solver.config.get("steps") or 1
    return sum(steps) if isinstance(steps, Sequence) else steps * len(flow.segments)


@dataclass
class StepEnd:
    """`observer` is `sample`'s `observe`. Of the pipeline `pipe`, `interrupt` is read; `update(n)` moves the
    bar; `guide()` gives the guidance that the pipeline now asks for; `done` is the number of steps so far."""

    pipe: Any
    flow: Flow
    solver: Solver
    callback: Callback | None
    tensors: Sequence[str]
    update: Callable[[int], Any]
    guide: Callable[[], Guidance]
    done: int = 0

    def observer(self, current: Field) -> Observer:
        """What is called with (t, state): first at the segment's start, then after each of its steps."""
        field = cast(ModelField, current)
        field.guidance = self.guide()
        begun = False

        def watch(t: float, state: State) -> None:
            nonlocal begun
            if begun:
                self._after(field, t, state)
            begun = True
            if self.pipe.interrupt:
                raise Interrupted(dict(state), field.segment)

        return watch

    def _after(self, field: ModelField, t: float, state: State) -> None:
        if self.callback is not None:
            self._call(self.callback, field, t, state)
            field.guidance = self.guide()
        self.done += 1
        if "steps" in self.solver.config or t >= min(field.segment.stop, field.solve_t_max):
            self.update(1)

    def _call(self, callback: Callback, field: ModelField, t: float, state: State) -> None:
        """Call the callback, and put what it made of the latents in the place of the state."""
        finest = field.segment.finest
        # The image [b, c, *sizes] that the active scales make, at their own resolution.
        like = self.flow.decomposition.synthesize(self.flow.to_bands(state, field.segment), finest)
        shown = like.clone() if LATENTS in self.tensors else None  # a callback may write into it
        answer = callback(self.pipe, self.done, t, {} if shown is None else {LATENTS: shown}) or {}
        made = answer.get(LATENTS, shown)
        if made is None or (shown is not None and made is shown and torch.equal(shown, like)):
            return
        if not isinstance(made, Tensor) or made.shape != like.shape:
            raise ConfigError(
                "a callback must return latents in the form in which it got them",
                got=f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__,
                expected=f"a tensor of shape {tuple(like.shape)}",
            )
        if not self.solver.steered:
            raise ConfigError(
                "this solver goes its own way between its steps, and a callback cannot change the latents",
                got=type(self.solver).__name__,
                expected="a solver with a fixed number of steps, such as heun",
            )
        bands = self.flow.decomposition.analyze(made.to(like), finest)
        state.update(self.flow.to_image(bands, field.segment))


def unfinished(flow: Flow, state: State, segment: Segment, shape: Shape) -> Tensor:
    """The image [b, *shape] that a state in the middle of a run makes; scales that have not entered are 0."""
    first = next(iter(state.values()))
    zeros = {k: first.new_zeros(len(first), *band.shape) for k, band in flow.bands(shape).items()}
    return flow.decomposition.synthesize({**zeros, **flow.to_bands(state, segment)})
