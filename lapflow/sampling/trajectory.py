"""Frames of a sampling run: how each scale matures over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lapflow.core.field import Field
from lapflow.core.intervals import Segment
from lapflow.core.solver import Observer
from lapflow.core.state import State
from lapflow.flows.flow import Flow


@dataclass
class Trajectory:
    """Keeps the states of the first `samples` samples at the solver's steps. `observer` is `sample`'s
    `observe`."""

    flow: Flow
    samples: int = 1
    frames: list[tuple[float, Segment, State]] = field(default_factory=list)

    def observer(self, current: Field) -> Observer:
        def watch(t: float, state: Mapping[int, Tensor]) -> None:
            self.frames.append(
                (t, current.segment, {k: x[: self.samples].detach().float().cpu() for k, x in state.items()})
            )

        return watch

    def images(self, times: Sequence[float]) -> list[tuple[float, dict[str, Tensor]]]:
        """At the frames nearest to `times`: {'scale k': the image at that scale so far [c, h, w], ...} coarse
        to fine, first sample.

        The image at scale k is what the bands from the coarsest to k make, divided by the decomposition's
        gain there. One that is larger than data and unit noise are (a variance-exploding path) is divided by
        its root mean square.
        """
        decomposition = self.flow.decomposition
        rows = []
        for wanted in times:
            # Of two frames at one time, the later: at a bridge it holds the scale that just entered.
            t, segment, state = min(reversed(self.frames), key=lambda frame: abs(frame[0] - wanted))
            bands = self.flow.to_bands(state, segment)
            images = {k: decomposition.synthesize(bands, k)[0] / decomposition.gain(k) for k in bands}
            rows.append(
                (t, {f"scale {k}": x / max(1.0, x.square().mean().sqrt().item()) for k, x in images.items()})
            )
        return rows
