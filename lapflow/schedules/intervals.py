"""Interval schedules, and how a training step draws segments and times."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.errors import ConfigError
from lapflow.core.intervals import Draw, IntervalSchedule, Segment
from lapflow.core.state import Device
from lapflow.core.time_law import TimeLaw
from lapflow.util.random import Generators, rand
from lapflow.util.transfer import upload

SegmentSampling = Literal["batch", "sample", "balanced"]
SegmentSamplingOption = Annotated[
    SegmentSampling,
    Field(description="one segment per batch, one per sample, or all with equally many samples of a batch"),
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
    weights: Sequence[float] | None

    def train_t_max(self, segment: Segment, t_max: float) -> float:
        """The time up to which a segment trains; `t_max` is where the path ends, maybe past its stop."""
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

        def times(segment: Segment, u: Tensor) -> Tensor:
            share, end = time_law.quantile(u, segment.finest, levels), t_max[segment.index]
            # Rounding could reach the end.
            below = end * (1 - torch.finfo(share.dtype).eps)
            return (segment.start + (end - segment.start) * share).clamp(max=below)

        if self.segment_sampling == "batch":
            u = rand((batch,), generator, dtype=dtype, device=device)
            return [Draw(segments[index], times(segments[index], u))]
        if self.segment_sampling == "balanced":
            stage = (torch.arange(batch) + index) % len(segments)
        else:
            portion = rand((batch,), generator, dtype=torch.float32, device="cpu")
            stage = (portion * len(segments)).long().clamp(max=len(segments) - 1)
        u = rand((batch,), generator, dtype=dtype, device=device)
        rows = [(s, upload((stage == s.index).nonzero().flatten(), device)) for s in segments]
        return [Draw(s, times(s, u[index]), index) for s, index in rows if len(index)]

    def scale_weight(self, scale: int, levels: int) -> float:
        return 1.0 if self.weights is None else self.weights[levels - 1 - scale]

    def _check_weights(self, scales: int) -> None:
        """Raises `ConfigError` unless there is a weight for each scale, and one that is not 0."""
        if self.weights is not None and len(self.weights) != scales:
            raise ConfigError(
                "intervals.weights must name every scale",
                got=f"{len(self.weights)} weights",
                expected=f"{scales}, coarse to fine",
            )
        if self.weights is not None and not any(self.weights):
            raise ConfigError(
                "intervals.weights are all zero",
                got=list(self.weights),
                expected="at least one positive weight",
            )


class CumulativeIntervals(UniformDraws):
    """In segment j = [starts[j], starts[j+1]] the j + 1 coarsest scales are active; every scale runs from its
    start to t = 1.

    Finer scales join one by one, coarser ones keep integrating (LapFlow, ICLR 2026). Training draws a segment
    uniformly and t uniformly on [its start, 1], past the segment's own end, as the paper does.
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
        self.starts = tuple(map(float, starts))
        self.segment_sampling, self.weights = segment_sampling, weights
        _check_starts(self.starts)
        self._check_weights(len(self.starts))

    def segments(self, levels: int, contractions: Sequence[float] | None = None) -> tuple[Segment, ...]:
        _check_levels(self.starts, levels)
        stops = (*self.starts[1:], 1.0)
        entry = {levels - 1 - i: start for i, start in enumerate(self.starts)}
        return tuple(
            Segment(i, start, stop, {k: entry[k] for k in range(levels - 1, levels - 2 - i, -1)})
            for i, (start, stop) in enumerate(zip(self.starts, stops, strict=True))
        )


class Stages(UniformDraws):
    """One resolution per segment, coarse to fine; the noise has unit variance per pixel at each of them.

    The schedule of Pyramidal Flow, EdifyImage, Relay Diffusion and cascades: segment i works on the image at
    scale K-1-i, with all the bands that it holds. Systems differ in the windows of the local time u:

    * `continuous`: u is t; a segment goes on where the one before stopped (EdifyImage).
    * `full`: each segment runs over the whole of [0, 1] (a cascade, Relay).
    * `pyramidal`: windows [s_i, e_i] that overlap (Pyramidal Flow): e_i = (i+1)/S, s_0 = 0, s_(i+1) = e_i /
      (e_i + c (1 - e_i)) with c = 2^(n/2) for n halved axes (e_i / (2 - e_i) for an image's two), so that a
      transition with corrective noise is exact: averaging over n axes divides the std of white noise by c.
      Time shares out the windows' lengths, so that du/dt is the same in all.
    """

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
            Field(description="start times of the segments; null: evenly, or in proportion to the windows"),
        ] = None,
        segment_sampling: SegmentSamplingOption = "batch",
        weights: WeightsOption = None,
    ) -> None:
        self.windows, self.segment_sampling = windows, segment_sampling
        self.starts = None if starts is None else tuple(map(float, starts))
        self.weights = weights
        if self.starts is not None:
            _check_starts(self.starts)

    def segments(self, levels: int, contractions: Sequence[float] | None = None) -> tuple[Segment, ...]:
        if self.starts is not None:
            _check_levels(self.starts, levels)
        self._check_weights(levels)
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
        total = sum(lengths)
        return tuple(passed / total for passed in accumulate(lengths[:-1], initial=0.0))


def _check_levels(starts: Sequence[float], levels: int) -> None:
    """Raises `ConfigError` unless there is a start for each scale."""
    if len(starts) != levels:
        raise ConfigError(
            "the schedule and the decomposition have different numbers of scales",
            got=f"{len(starts)} starts {list(starts)} for {levels} scales",
            expected=f"{levels} starts, coarse to fine, the first 0",
            remedy="set flow.intervals.starts and flow.decomposition.levels together",
        )


def _check_starts(starts: tuple[float, ...]) -> None:
    if not starts or starts[0] != 0:
        what = "interval starts must begin at 0, the coarsest scale's start"
    elif any(b <= a for a, b in pairwise(starts)):
        what = "interval starts are out of order"
    elif not all(0 <= s < 1 for s in starts):
        what = "interval starts are out of range"
    else:
        return
    raise ConfigError(
        what,
        got=list(starts),
        expected="times in [0, 1), coarse to fine, strictly rising, the first 0, for instance [0.0, 0.5]",
        remedy="list them coarse to fine, each later than the one before",
    )
