"""A basis of the white noise of a sampling run. A sampler that is given an affine field is an affine map of
its noise: passing a basis through it gives mean and covariance of its output exactly, without Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lapflow.core.intervals import Segment
from lapflow.core.state import Shape, State
from lapflow.flows.flow import Flow

SOLVE_T_MAX_WITH_DEAD_NOISE = 1 - 1e-8
"""Noise in a dead direction has velocity (sigma'/sigma) x, 0/0 at t = 1; integration then ends just
before."""


class Basis:
    """Rows of a batch: row 0 without any noise, then one row for each white draw, set to 1: first those of
    the noise pyramids, then those of the `calls` fresh draws of a stochastic solver, in the order in which it
    asks for them."""

    def __init__(self, flow: Flow, shape: Shape, calls: int = 0) -> None:
        self.flow, self.shape, self.calls = flow, shape, calls
        self.sizes = {k: math.prod(s) for k, s in flow.noise.white_shapes(shape).items()}
        self.each = sum(self.sizes.values())
        self.rows = 1 + self.each * (len(flow.finest_noise_scales()) + calls)
        self.asked = 0
        dead = any(flow.noise.dead_std(band) for band in flow.bands(shape).values())
        self.solve_t_max = SOLVE_T_MAX_WITH_DEAD_NOISE if dead else 1.0

    def noise_draws(self) -> list[State]:
        """The noise pyramids of the batch."""
        return [
            self._noise_draw(1 + i * self.each, finest)
            for i, finest in enumerate(self.flow.finest_noise_scales())
        ]

    def fresh(self, segment: Segment, like: Mapping[int, Tensor]) -> State:
        """The next fresh draw, as bands at the segment's noise scale. Beyond `calls` they are counted, and
        zero."""
        self.asked += 1
        if self.asked > self.calls:
            return {k: torch.zeros_like(x) for k, x in like.items()}
        finest = self.flow.finest_noise_scales()[self.flow.bridge.noise_index(segment)]
        drawn = self._noise_draw(
            1 + (len(self.flow.finest_noise_scales()) + self.asked - 1) * self.each, finest
        )
        return {k: drawn[k] * segment.noise_scale for k in like}

    def noise_rows(self, segment: Segment) -> State:
        """One row per white draw of a single pyramid, as the bands of the segment's noise."""
        finest = self.flow.finest_noise_scales()[self.flow.bridge.noise_index(segment)]
        columns = self._white(0, self.each)
        return {
            k: x * segment.noise_scale
            for k, x in self.flow.noise.from_white(columns, finest).items()
            if k in segment.scales
        }

    def _noise_draw(self, start: int, finest: int) -> State:
        return self.flow.noise.from_white(self._white(start, self.rows), finest)

    def _white(self, start: int, rows: int) -> dict[int, Tensor]:
        """The white draws of a batch of `rows`, of which those from `start` on are set to 1 in turn."""
        white = {}
        for (k, size), s in zip(
            self.sizes.items(), self.flow.noise.white_shapes(self.shape).values(), strict=True
        ):
            columns = torch.zeros(rows, size, dtype=torch.float64)
            columns[start : start + size] = torch.eye(size, dtype=torch.float64)
            white[k], start = columns.reshape(-1, *s), start + size
        return white
