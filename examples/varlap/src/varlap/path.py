"""A path on which one scale after the other comes about: while one does, the coarser ones are finished and
the finer not there."""

from __future__ import annotations

import torch
from torch import Tensor

from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, Path


class Successive(Path):
    """A scale goes from noise to data within the segment in which it enters, alpha = v and sigma = 1 - v, v
    linear from 0 to 1, and is data from then on. Training takes place at the segments' starts alone: the
    scale in progress is noise there."""

    def coefficients(self, t: Tensor, segment: Segment, scale: int) -> Coefficients:
        start, stop = segment.scale_starts[scale], self._stop(segment, scale)
        v, rate = (segment.local_time(t) - start) / (stop - start), segment.rate / (stop - start)
        slope = torch.where(v < 1, rate, 0.0).to(t.dtype)
        v = v.clamp(max=1)
        return Coefficients(v, 1 - v, slope, -slope)

    def discretize(self, t: Tensor, segment: Segment) -> Tensor:
        return torch.full_like(t, segment.start)

    @staticmethod
    def _stop(segment: Segment, scale: int) -> float:
        """u at which a scale is finished: where the next finer one enters, or at the segment's end."""
        if scale > segment.finest:
            return segment.scale_starts[scale - 1]
        return segment.stop if segment.window is None else segment.window[1]
