"""Every scale has a time of its own, in the manner of decomposable flow matching (DFM, Haji-Ali et al. 2025):
one scale after the other runs from noise to data, while the network is told how far each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.intervals import Draw, IntervalSchedule, Segment
from lapflow.core.time_law import TimeLaw
from lapflow.util.random import Generators, rand


class ScaleTimes(IntervalSchedule):
    """In segment j the scale that enters runs from 0 to 1, and the coarser ones wait at 1.

    Training draws the time of the newest scale on [0, 1] and those of the coarser ones on [`nearly`, 1]: the
    network also sees coarser scales that are not quite finished, as they are when they come from the sampler.
    """

    times_per_scale = True
    common = True

    def __init__(
        self,
        *,
        nearly: Annotated[float, Field(ge=0, lt=1, description="least own time of finished scales")] = 0.9,
    ) -> None:
        self.nearly = nearly

    def segments(self, levels: int, contractions: Sequence[float] | None = None) -> tuple[Segment, ...]:
        found = []
        for i in range(levels):
            scales = range(levels - 1, levels - 2 - i, -1)
            windows = {k: (0.0 if k == min(scales) else 1.0, 1.0) for k in scales}
            found.append(
                Segment(i, i / levels, (i + 1) / levels, dict.fromkeys(scales, 0.0), windows=windows)
            )
        return tuple(found)

    def draw(
        self,
        segments: tuple[Segment, ...],
        batch: int,
        *,
        generator: Generators,
        stage_generator: torch.Generator,
        train_t_max: Sequence[float],
        time_law: TimeLaw,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> list[Draw]:
        drawn = torch.randint(len(segments), (1,), generator=stage_generator, device=stage_generator.device)
        segment = segments[int(drawn)]

        def time(k: int) -> Tensor:
            first, end = 0.0 if k == segment.finest else self.nearly, train_t_max[segment.index]
            u = rand((batch,), generator, dtype=dtype, device=device)
            share = time_law.quantile(u, k, len(segments))
            return (first + (end - first) * share).clamp(max=end * (1 - torch.finfo(dtype).eps))

        return [Draw(segment, {k: time(k) for k in segment.scales})]
