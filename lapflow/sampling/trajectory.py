"""Frames of a sampling run: how each scale matures over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lapflow.core.flow import Flow
from lapflow.core.solver import Field, Observer
from lapflow.core.state import State


@dataclass
class Trajectory:
    """Keeps the states of the first `samples` samples at the solver's steps. `observer` is `sample`'s `observe`."""

    flow: Flow
    samples: int = 1
    frames: list[tuple[float, State]] = field(default_factory=list)

    def observer(self, current: Field) -> Observer:
        def watch(t: float, state: Mapping[int, Tensor]) -> None:
            self.frames.append((t, {k: x[: self.samples].detach().float().cpu() for k, x in state.items()}))

        return watch

    def images(self, times: Sequence[float]) -> list[tuple[float, dict[str, Tensor]]]:
        """At the frames nearest to `times`: {'scale k': the image at that scale so far [c, h, w], ...} coarse to fine, first sample.

        The image at scale k is what the bands from the coarsest to k make, divided by the decomposition's gain there.
        """
        decomposition = self.flow.decomposition
        rows = []
        for wanted in times:
            # Of two frames at one time, the later: at a bridge it holds the scale that just entered.
            t, state = min(reversed(self.frames), key=lambda frame: abs(frame[0] - wanted))
            pictures = {f"scale {k}": decomposition.synthesize(state, k)[0] / decomposition.gain(k) for k in state}
            rows.append((t, pictures))
        return rows
