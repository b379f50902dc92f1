"""Segments whose starts follow a power law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from lapflow.core.intervals import Draw, IntervalSchedule, Segment
from lapflow.core.random import Generators, rand


class Skeleton(IntervalSchedule):
    """Of K scales the i-th, coarse to fine, starts at (i / K)^power and stays active to t = 1.

    Training draws one segment for a batch, and for each sample a time between the segment's start and the
    path's end.
    """

    common = True

    def __init__(
        self,
        *,
        power: Annotated[float, Field(gt=0, description="above 1 the finer scales start earlier")] = 1.0,
    ) -> None:
        self.power = power

    def segments(self, levels: int, contractions: Sequence[float] | None = None) -> tuple[Segment, ...]:
        starts = [(i / levels) ** self.power for i in range(levels)]
        stops = [*starts[1:], 1.0]
        return tuple(
            Segment(i, starts[i], stops[i], {levels - 1 - j: starts[j] for j in range(i + 1)})
            for i in range(levels)
        )

    def draw(
        self,
        segments: tuple[Segment, ...],
        batch: int,
        *,
        generator: Generators,
        stage_generator: torch.Generator,
        ends: Sequence[float],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> list[Draw]:
        index = int(torch.randint(len(segments), (1,), generator=stage_generator))
        segment, end = segments[index], ends[index]
        t = segment.start + (end - segment.start) * rand((batch,), generator, dtype=dtype, device=device)
        return [Draw(segment, t.clamp(max=end * (1 - torch.finfo(t.dtype).eps)))]
