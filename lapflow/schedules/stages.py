"""One resolution per segment: the schedule of Pyramidal Flow, EdifyImage, Relay Diffusion and cascades.

Segment i works on the image at scale K-1-i, with all the bands that it holds. What the segments' windows are
of the local time u is the difference between the systems:

* `continuous`: u is t; a segment goes on where the one before stopped (EdifyImage).
* `full`: each segment runs over the whole of [0, 1] (a cascade, Relay).
* `pyramidal`: windows [s_i, e_i] that overlap (Pyramidal Flow): e_i = (i+1)/S, s_0 = 0, s_(i+1) = e_i / (e_i
  + c (1 - e_i)) with c = 2^(n/2) for n halved axes (e_i / (2 - e_i) for an image's two), so that a transition
  with corrective noise is exact: averaging over n axes divides the std of white noise by c. Time shares
  out the windows' lengths, so that du/dt is the same in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from lapflow.core.intervals import Segment
from lapflow.schedules.draws import (
    SegmentSamplingOption,
    UniformDraws,
    WeightsOption,
    check_levels,
    check_starts,
    check_weights,
)


class Stages(UniformDraws):
    """One resolution per segment, coarse to fine; the noise has unit variance per pixel at every
    resolution."""

    unit_pixel_variance = True

    def __init__(
        self,
        *,
        windows: Annotated[
            Literal["continuous", "full", "pyramidal"],
            Field(description="the part of the path that each segment runs over"),
        ] = "pyramidal",
        starts: Annotated[
            Sequence[float] | None,
            Field(
                description="start times of the segments; null: evenly, or in proportion to pyramidal windows"
            ),
        ] = None,
        segment_sampling: SegmentSamplingOption = "batch",
        weights: WeightsOption = None,
    ) -> None:
        self.windows, self.segment_sampling = windows, segment_sampling
        self.starts = None if starts is None else tuple(float(s) for s in starts)
        self.weights = None if weights is None else tuple(weights)
        if self.starts is not None:
            check_starts(self.starts)

    def segments(self, levels: int, contractions: Sequence[float] | None = None) -> tuple[Segment, ...]:
        if self.starts is not None:
            check_levels(self.starts, levels)
        check_weights(self.weights, levels)
        windows = self._windows(levels, contractions)
        starts = self.starts or self._even(levels, windows)
        stops = (*starts[1:], 1.0)
        firsts = [start if window is None else window[0] for start, window in zip(starts, windows)]
        entries = [0.0] * levels if self.windows == "full" else firsts
        return tuple(
            Segment(i, starts[i], stops[i], {levels - 1 - j: entries[j] for j in range(i + 1)}, windows[i])
            for i in range(levels)
        )

    def train_t_max(self, segment: Segment, t_max: float) -> float:
        return min(segment.stop, t_max)

    def _windows(self, levels: int, contractions: Sequence[float] | None) -> list[tuple[float, float] | None]:
        if self.windows == "continuous":
            return [None] * levels
        if self.windows == "full":
            return [(0.0, 1.0)] * levels
        ends = [(i + 1) / levels for i in range(levels)]
        ratios = contractions or [2.0] * (levels - 1)
        return list(zip([0.0, *(e / (c - (c - 1) * e) for e, c in zip(ends, ratios))], ends))

    @staticmethod
    def _even(levels: int, windows: Sequence[tuple[float, float] | None]) -> tuple[float, ...]:
        lengths = [1.0 if window is None else window[1] - window[0] for window in windows]
        total, passed, starts = sum(lengths), 0.0, []
        for length in lengths:
            starts.append(passed / total)
            passed += length
        return tuple(starts)
