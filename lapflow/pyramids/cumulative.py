"""Cumulative intervals: finer scales join one by one, coarser ones keep integrating until t = 1 (LapFlow, ICLR 2026)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field

from lapflow.core.errors import ConfigError
from lapflow.core.intervals import Draw, IntervalSchedule, Segment
from lapflow.core.random import Generators, rand


class CumulativeIntervals(IntervalSchedule):
    """In segment j = [starts[j], starts[j+1]] the j + 1 coarsest scales are active; every scale runs from its start to t = 1.

    Training draws a segment uniformly and t uniformly on [its start, 1], past the segment's own end, as the paper does.
    """

    def __init__(
        self,
        *,
        starts: Annotated[Sequence[float], Field(description="start times of the scales, coarse to fine; the first is 0")] = (0.0, 0.5),
        draw: Annotated[Literal["batch", "sample"], Field(description="draw one segment per batch, or one per sample")] = "batch",
        weights: Annotated[
            Sequence[Annotated[float, Field(ge=0)]] | None, Field(description="loss weight of each scale, coarse to fine; null: all 1")
        ] = None,
    ) -> None:
        self.starts = tuple(float(s) for s in starts)
        self.law, self.weights = draw, None if weights is None else tuple(weights)
        _check_starts(self.starts)
        if self.weights is not None and len(self.weights) != len(self.starts):
            raise ConfigError(
                "intervals.weights must name every scale",
                got=f"{len(self.weights)} weights",
                expected=f"{len(self.starts)}, coarse to fine",
            )
        if self.weights is not None and not any(self.weights):
            raise ConfigError("intervals.weights are all zero", got=list(self.weights), expected="at least one positive weight")

    def segments(self, levels: int) -> tuple[Segment, ...]:
        if len(self.starts) != levels:
            raise ConfigError(
                "the schedule and the decomposition have different numbers of scales",
                got=f"{len(self.starts)} starts {list(self.starts)} for {levels} scales",
                expected=f"{levels} starts, coarse to fine, the first 0",
                remedy="set flow.intervals.starts and flow.decomposition.levels together",
            )
        stops = (*self.starts[1:], 1.0)
        entry = {levels - 1 - i: start for i, start in enumerate(self.starts)}
        return tuple(
            Segment(i, start, stop, {k: entry[k] for k in range(levels - 1, levels - 2 - i, -1)})
            for i, (start, stop) in enumerate(zip(self.starts, stops, strict=True))
        )

    def draw(
        self,
        segments: tuple[Segment, ...],
        batch: int,
        *,
        generator: Generators,
        stage_generator: torch.Generator,
        end: float,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> list[Draw]:
        if self.law == "batch":
            index = int(torch.randint(len(segments), (1,), generator=stage_generator, device=stage_generator.device))
            return [Draw(segments[index], self._times(segments[index], rand((batch,), generator, dtype=dtype, device=device), end))]
        stage = (rand((batch,), generator, dtype=torch.float32, device="cpu") * len(segments)).long().clamp(max=len(segments) - 1)
        unit = rand((batch,), generator, dtype=dtype, device=device)
        rows = [(s, (stage == s.index).nonzero().flatten().to(device)) for s in segments]
        return [Draw(s, self._times(s, unit[index], end), index) for s, index in rows if len(index)]

    def scale_weight(self, scale: int, levels: int) -> float:
        return 1.0 if self.weights is None else self.weights[levels - 1 - scale]

    @staticmethod
    def _times(segment: Segment, unit: torch.Tensor, end: float) -> torch.Tensor:
        """t = T + (end - T) u, kept below `end`, which rounding could reach."""
        below = end * (1 - torch.finfo(unit.dtype).eps)
        return (segment.start + (end - segment.start) * unit).clamp(max=below)


def _check_starts(starts: tuple[float, ...]) -> None:
    expected = "times in [0, 1), coarse to fine, strictly rising, the first 0, for instance [0.0, 0.5]"
    if not starts or starts[0] != 0:
        raise ConfigError("interval starts must begin at 0, the coarsest scale's start", got=list(starts), expected=expected)
    if any(b <= a for a, b in pairwise(starts)):
        raise ConfigError(
            "interval starts are out of order",
            got=list(starts),
            expected=expected,
            remedy="list them coarse to fine, each later than the one before",
        )
    if not all(0 <= s < 1 for s in starts):
        raise ConfigError("interval starts are out of range", got=list(starts), expected=expected)
