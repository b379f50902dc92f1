"""Cumulative intervals: finer scales join one by one, coarser ones keep integrating until t = 1 (LapFlow,
ICLR 2026)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

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


class CumulativeIntervals(UniformDraws):
    """In segment j = [starts[j], starts[j+1]] the j + 1 coarsest scales are active; every scale runs from its
    start to t = 1.

    Training draws a segment uniformly and t uniformly on [its start, 1], past the segment's own end, as the
    paper does.
    """

    def __init__(
        self,
        *,
        starts: Annotated[
            Sequence[float], Field(description="start times of the scales, coarse to fine; the first is 0")
        ] = (0.0, 0.5),
        segment_sampling: SegmentSamplingOption = "batch",
        weights: WeightsOption = None,
    ) -> None:
        self.starts = tuple(float(s) for s in starts)
        self.segment_sampling, self.weights = segment_sampling, None if weights is None else tuple(weights)
        check_starts(self.starts)
        check_weights(self.weights, len(self.starts))

    def segments(self, levels: int, contractions: Sequence[float] | None = None) -> tuple[Segment, ...]:
        check_levels(self.starts, levels)
        stops = (*self.starts[1:], 1.0)
        entry = {levels - 1 - i: start for i, start in enumerate(self.starts)}
        return tuple(
            Segment(i, start, stop, {k: entry[k] for k in range(levels - 1, levels - 2 - i, -1)})
            for i, (start, stop) in enumerate(zip(self.starts, stops, strict=True))
        )
