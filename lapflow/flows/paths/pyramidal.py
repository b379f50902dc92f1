"""Pyramidal Flow's path (Jin et al. 2024, "Pyramidal Flow Matching for Efficient Video Generative Modeling",
eq. 7-12).

A stage runs over a window [s, e] of the local time u, at one resolution, with the same noise n throughout:

    from   s U(D x) + (1 - s) n   to   e x + (1 - e) n,    x the image at the stage's resolution.

Band by band, with r = (u - s) / (e - s) the local time: the coarser bands have alpha = u, the stage's own
band alpha = r e (it is absent from U(D x)), and all have sigma = 1 - u. The velocity dx/dt is du/dt times
what Pyramidal's network predicts per unit of r, end - start.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, Path


class PyramidalPath(Path):
    """Straight lines within each stage's window; wants pyramidal `stages` and bridge `transition`."""

    def coefficients(self, t: Tensor, segment: Segment, scale: int) -> Coefficients:
        u, rate = segment.local_time(t), segment.rate
        first, last = segment.window or (segment.start, segment.stop)
        one = torch.ones_like(t)
        own = scale == segment.finest and segment.index > 0
        slope = last / (last - first) if own else 1.0
        alpha = slope * (u - first) if own else u
        return Coefficients(alpha, 1 - u, slope * rate * one, -rate * one)
