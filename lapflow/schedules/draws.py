"""What interval schedules share: their options and their checks, and how a training step draws segments and
times."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field

from lapflow.core.errors import ConfigError
from lapflow.core.intervals import Draw, IntervalSchedule, Segment
from lapflow.core.state import Device
from lapflow.core.time_law import TimeLaw
from lapflow.util.random import Generators, rand
from lapflow.util.transfer import upload

SegmentSampling = Literal["batch", "sample", "balanced"]
SegmentSamplingOption = Annotated[
    SegmentSampling,
    Field(
        description="draw one segment per batch, or one per sample, or give every segment equally many "
        "samples of each batch"
    ),
]
WeightsOption = Annotated[
    Sequence[Annotated[float, Field(ge=0)]] | None,
    Field(description="loss weight of each scale, coarse to fine; null: all 1"),
]


class UniformDraws(IntervalSchedule):
    """A schedule that draws segments uniformly, and times up to `train_t_max` by the time law.

    `segment_sampling`: `batch` draws one segment for a batch, `sample` one for each sample; `balanced` deals
    the segments out to the samples in turn, beginning at a drawn one, so that a batch holds all of them in
    numbers that differ by one at most: less variance, and the same work in every process.
    """

    segment_sampling: SegmentSampling
    weights: tuple[float, ...] | None

    def train_t_max(self, segment: Segment, t_max: float) -> float:
        """The time up to which a segment trains; `t_max` is where the path ends, perhaps past the segment's
        stop."""
        return t_max

    @property
    def common(self) -> bool:  # type: ignore[override]
        return self.segment_sampling != "sample"

    def share_multiple(self, segments: int) -> int:
        return segments if self.segment_sampling == "balanced" else 1

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
        device: Device,
    ) -> list[Draw]:
        t_max = [self.train_t_max(segment, t) for segment, t in zip(segments, train_t_max, strict=True)]
        if self.segment_sampling != "sample":
            index = int(
                torch.randint(len(segments), (1,), generator=stage_generator, device=stage_generator.device)
            )
        levels = 1 + max(segments[0].scales)

        def times(segment: Segment, u: torch.Tensor) -> torch.Tensor:
            return _times(segment, time_law.quantile(u, segment.finest, levels), t_max[segment.index])

        if self.segment_sampling == "batch":
            u = rand((batch,), generator, dtype=dtype, device=device)
            return [Draw(segments[index], times(segments[index], u))]
        if self.segment_sampling == "balanced":
            stage = (torch.arange(batch) + index) % len(segments)
        else:
            stage = (
                (rand((batch,), generator, dtype=torch.float32, device="cpu") * len(segments))
                .long()
                .clamp(max=len(segments) - 1)
            )
        u = rand((batch,), generator, dtype=dtype, device=device)
        rows = [(s, upload((stage == s.index).nonzero().flatten(), device)) for s in segments]
        return [Draw(s, times(s, u[index]), index) for s, index in rows if len(index)]

    def scale_weight(self, scale: int, levels: int) -> float:
        return 1.0 if self.weights is None else self.weights[levels - 1 - scale]


def _times(segment: Segment, share: torch.Tensor, end: float) -> torch.Tensor:
    """t = T + (end - T) share, kept below `end`, which rounding could reach."""
    below = end * (1 - torch.finfo(share.dtype).eps)
    return (segment.start + (end - segment.start) * share).clamp(max=below)


def check_weights(weights: Sequence[float] | None, scales: int) -> None:
    """Raises `ConfigError` unless there is a weight for each scale, and one that is not 0."""
    if weights is not None and len(weights) != scales:
        raise ConfigError(
            "intervals.weights must name every scale",
            got=f"{len(weights)} weights",
            expected=f"{scales}, coarse to fine",
        )
    if weights is not None and not any(weights):
        raise ConfigError(
            "intervals.weights are all zero", got=list(weights), expected="at least one positive weight"
        )


def check_levels(starts: Sequence[float], levels: int) -> None:
    """Raises `ConfigError` unless there is a start for each scale."""
    if len(starts) != levels:
        raise ConfigError(
            "the schedule and the decomposition have different numbers of scales",
            got=f"{len(starts)} starts {list(starts)} for {levels} scales",
            expected=f"{levels} starts, coarse to fine, the first 0",
            remedy="set flow.intervals.starts and flow.decomposition.levels together",
        )


def check_starts(starts: tuple[float, ...]) -> None:
    expected = "times in [0, 1), coarse to fine, strictly rising, the first 0, for instance [0.0, 0.5]"
    if not starts or starts[0] != 0:
        raise ConfigError(
            "interval starts must begin at 0, the coarsest scale's start", got=list(starts), expected=expected
        )
    if any(b <= a for a, b in pairwise(starts)):
        raise ConfigError(
            "interval starts are out of order",
            got=list(starts),
            expected=expected,
            remedy="list them coarse to fine, each later than the one before",
        )
    if not all(0 <= s < 1 for s in starts):
        raise ConfigError("interval starts are out of range", got=list(starts), expected=expected)
