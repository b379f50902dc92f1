"""Contract: which scales are active when, and which times and scales a training step draws."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.random import Generators


@dataclass(frozen=True)
class Segment:
    """A piece [start, stop] of the clock [0, 1] in which the set of active scales is constant.

    `entry[k]` is the time at which scale k became active (its own start), for each active scale, coarse to fine.
    """

    index: int
    start: float
    stop: float
    entry: Mapping[int, float]

    @property
    def scales(self) -> tuple[int, ...]:
        """The active scales, coarse to fine."""
        return tuple(self.entry)

    def grid(self, steps: int) -> list[float]:
        """The default sampling grid: `steps` + 1 times from start to stop (uniform in t unless a schedule says otherwise)."""
        return [self.start + (self.stop - self.start) * i / steps for i in range(steps)] + [self.stop]


@dataclass(frozen=True)
class Draw:
    """What a training step drew: the samples `index` of the batch (None: all) train in `segment` at times `t` [n].

    `t` may lie past `segment.stop`, where the path of the segment's scales is still defined.
    """

    segment: Segment
    t: Tensor
    index: Tensor | None = None


class IntervalSchedule(Component):
    """Segments that partition the clock [0, 1], t = 0 noise and t = 1 data, and the law of the training times."""

    kind = "intervals"

    @abstractmethod
    def segments(self, levels: int) -> tuple[Segment, ...]:
        """The segments in time order for a decomposition of `levels` scales. Raises `ConfigError` when they do not fit."""

    @abstractmethod
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
        """Draw segments and times for `batch` training samples; every sample is in exactly one `Draw`.

        What must be alike on all ranks comes from `stage_generator`, what belongs to a sample from `generator`.
        Times lie in [segment.start, end).
        """

    def scale_weight(self, scale: int, levels: int) -> float:
        """The weight of scale `scale` in the training loss."""
        return 1.0
