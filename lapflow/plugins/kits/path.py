"""The path contract: derivatives that are derivatives, ends that are noise and data, conversions that invert."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.plugins.kits.base import Conformance, normal, relative

TWO_SCALES = (Segment(0, 0.0, 0.5, {1: 0.0}), Segment(1, 0.5, 1.0, {1: 0.0, 0: 0.5}))
"""Segments of two scales, the finer entering at t = 0.5."""


class PathConformance(Conformance):
    """`segments` on which the path is tried; `start_bound` is how much data its start may hold (VP: .0066)."""

    kind = "path"
    segments: ClassVar[tuple[Segment, ...]] = TWO_SCALES
    start_bound: ClassVar[float] = 0.01

    def make(self) -> Path:
        raise NotImplementedError("override make() to return the path under test")

    def cases(self) -> list[tuple[Segment, int, Tensor]]:
        """(segment, scale, random times inside the scale's own interval), past the segment's stop too."""
        path = self.make()
        found = []
        for segment in self.segments:
            for k in segment.scales:
                unit = torch.rand(64, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
                low = segment.entry[k]
                found.append((segment, k, low + (path.end - low) * (0.01 + 0.97 * unit)))
        return found

    def test_velocity_is_the_derivative_of_position(self) -> None:
        """alpha' and sigma' against autograd of alpha and sigma, and variance_rate = sigma sigma', in float64."""
        path = self.make()
        for segment, k, times in self.cases():
            t = times.clone().requires_grad_()
            c = path.coefficients(t, segment, k)
            (dalpha,) = torch.autograd.grad((c.alpha + 0 * t).sum(), t, retain_graph=True)
            (dsigma,) = torch.autograd.grad((c.sigma + 0 * t).sum(), t, retain_graph=True)
            assert relative(c.dalpha + 0 * t, dalpha) <= 1e-10, f"alpha' of scale {k}"
            assert relative(c.dsigma + 0 * t, dsigma) <= 1e-10, f"sigma' of scale {k}"
            assert relative(c.variance_rate + 0 * t, c.sigma * dsigma) <= 1e-10, f"sigma sigma' of scale {k}"

    def test_shapes_follow_the_times(self) -> None:
        """Coefficients are shaped like t, a scalar or [b], in t's dtype."""
        path, segment = self.make(), self.segments[-1]
        for t in (torch.tensor(0.7), torch.tensor(0.7, dtype=torch.float64), torch.full((3,), 0.7)):
            for k in segment.scales:
                for value in path.coefficients(t, segment, k).__dict__.values():
                    assert value.shape == t.shape
                    assert value.dtype == t.dtype

    def test_it_starts_in_noise(self) -> None:
        """At a scale's own start hardly any data is there, and some noise is."""
        path = self.make()
        for segment in self.segments:
            for k in segment.scales:
                c = path.coefficients(torch.tensor(segment.entry[k], dtype=torch.float64), segment, k)
                assert abs(float(c.alpha)) <= self.start_bound
                assert float(c.sigma) > 0

    def test_it_ends_at_the_data(self) -> None:
        """alpha = 1, sigma = 0 at t = 1, up to the square root of what `end` leaves out; everything is finite up to `end`."""
        path = self.make()
        segment, allowed = self.segments[-1], 1e-9 + (1 - path.end) ** 0.5
        for k in segment.scales:
            c = path.coefficients(torch.tensor(path.end, dtype=torch.float64), segment, k)
            assert abs(float(c.alpha) - 1) <= allowed
            assert abs(float(c.sigma)) <= allowed
            assert all(bool(torch.isfinite(value).all()) for value in c.__dict__.values())

    def test_conversions_invert(self) -> None:
        """Velocity, denoised, noise and score each give back the (x1, x0) they were made from."""
        path = self.make()
        for segment, k, t in self.cases():
            data, noise = normal(64, 1, 2, 2, key=("x1", k)), normal(64, 1, 2, 2, key=("x0", k))
            c = path.coefficients(t, segment, k).expand(data)
            x = c.position(data, noise)
            pairs = [
                c.endpoints_from_velocity(x, c.velocity(data, noise)),
                c.endpoints_from_denoised(x, data),
                c.endpoints_from_noise(x, noise),
                c.endpoints_from_score(x, c.score(noise, 0.5), 0.5),
            ]
            for got_data, got_noise in pairs:
                # Conversions divide by alpha or sigma, which are as small as 1e-3 at these times.
                assert relative(got_data, data) <= 1e-6
                assert relative(got_noise, noise) <= 1e-6

    def test_a_scale_does_not_change_its_law_at_a_segment_border(self) -> None:
        """Coefficients depend on a scale's own entry, so that its path is continuous from segment to segment."""
        path = self.make()
        for before, after in zip(self.segments, self.segments[1:]):
            t = torch.tensor(after.start, dtype=torch.float64)
            for k in before.scales:
                left, right = path.coefficients(t, before, k), path.coefficients(t, after, k)
                assert relative(left.alpha, right.alpha) <= 1e-12
                assert relative(left.sigma, right.sigma) <= 1e-12
