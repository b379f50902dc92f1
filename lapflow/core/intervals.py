"""Contract: which scales are active when, and which times and scales a training step draws."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.state import Device, Times
from lapflow.core.time_law import TimeLaw
from lapflow.util.random import Generators


@dataclass(frozen=True)
class Segment:
    """A piece [start, stop] of the times [0, 1] in which the set of active scales is constant.

    The path is a function of a local time u, which runs linearly over `window` while t runs from start to
    stop (default: u = t). Windows of different segments may overlap: a stage may go back in u.
    `scale_starts[k]` is the value of u at which scale k became active, for each active scale, coarse to fine.
    The noise of the segment is `noise_scale` times the bands of the sample's noise. Sampling enters at
    `sampling_start`, start unless the path or the prediction is not defined there.

    `windows` gives each scale a time of its own, which runs linearly over `windows[k]` while t runs from
    start to stop; the network is then told one time a scale, and predicts dx/d(own time).
    """

    index: int
    start: float
    stop: float
    scale_starts: Mapping[int, float]
    window: tuple[float, float] | None = None
    noise_scale: float = 1.0
    t_eps: float = 0.0
    windows: Mapping[int, tuple[float, float]] | None = None

    def of(self, scale: int) -> Segment:
        """The segment as `scale` sees it: its own window, where scales have times of their own."""
        return self if self.windows is None else replace(self, window=self.windows[scale], windows=None)

    def own_times(self, t: Times) -> Times:
        """The scales' own times at time `t`; `t` itself where all have one, or if it is such already."""
        if self.windows is None or not isinstance(t, Tensor):
            return t
        return {k: self.of(k).local_time(t) for k in self.scales}

    @property
    def sampling_start(self) -> float:
        """The time at which sampling enters: `t_eps` after the start."""
        return self.start + self.t_eps

    @property
    def scales(self) -> tuple[int, ...]:
        """The active scales, coarse to fine."""
        return tuple(self.scale_starts)

    @property
    def finest(self) -> int:
        """The finest active scale."""
        return min(self.scale_starts)

    @property
    def rate(self) -> float:
        """du/dt."""
        return 1.0 if self.window is None else (self.window[1] - self.window[0]) / (self.stop - self.start)

    def local_time(self, t: Tensor) -> Tensor:
        """u at times `t`; linear beyond the segment's ends too."""
        return t if self.window is None else self.window[0] + (t - self.start) * self.rate

    def global_time(self, u: float) -> float:
        """The time at which the local time is `u`: the inverse of `local_time`."""
        return u if self.window is None else self.start + (u - self.window[0]) / self.rate

    def grid(self, steps: int) -> list[float]:
        """`steps` + 1 times from sampling_start to stop, uniform in t."""
        return even_grid(self.sampling_start, self.stop, steps)


def even_grid(start: float, stop: float, steps: int) -> list[float]:
    """`steps` + 1 times from start to stop, the ends exact."""
    return [start + (stop - start) * i / steps for i in range(steps)] + [stop]


@dataclass(frozen=True)
class Draw:
    """What a training step drew: the samples `index` of the batch (None: all) train in `segment` at times `t`
    [n], or {k: [n]} where each scale has a time of its own.

    `t` may lie past `segment.stop`, where the path of the segment's scales is still defined.
    """

    segment: Segment
    t: Times
    index: Tensor | None = None


class IntervalSchedule(Component):
    """Segments that partition the times [0, 1] from noise to data, and how training draws times."""

    kind = "intervals"

    unit_pixel_variance: bool = False
    """Whether the noise has unit variance per pixel at every resolution (the segments' `noise_scale`), rather
    than being what a white image of full size is there."""

    times_per_scale: bool = False
    """Whether scales have times of their own (`Segment.windows`, or draws of {k: [n]})."""

    common: bool = False
    """Whether every process of a run trains the same segments in a step, each with the same number of
    samples: `draw` takes the samples' segments from `stage_generator` alone."""

    @abstractmethod
    def segments(self, levels: int, contractions: Sequence[float] | None = None) -> tuple[Segment, ...]:
        """The segments in time order for a decomposition of `levels` scales. `contractions` are those of the
        decomposition, coarse to fine; None: 2, an image's halvings. Raises `ConfigError` unless they fit."""

    @abstractmethod
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
        """Draw segments and times for `batch` training samples; every sample is in exactly one `Draw`.

        What must be alike on all ranks comes from `stage_generator`, what belongs to a sample from
        `generator`. `train_t_max` are the times, per segment, at which the path ends; they may lie past a
        segment's stop. Times lie in [segment.start, end), distributed there by `time_law`.
        """

    def share_multiple(self, segments: int) -> int:
        """The number of which each process's share of a batch must be a multiple, so that `draw` gives what
        it would give to one process with the whole batch."""
        return 1

    def scale_weight(self, scale: int, levels: int) -> float:
        """The weight of scale `scale` in the training loss."""
        return 1.0
