"""The path contract: derivatives that are derivatives, ends that are noise and data, conversions that
invert."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.intervals import Segment
from lapflow.core.path import Path
from lapflow.plugins.kits.base import Conformance, normal, relative

TWO_SCALES = (Segment(0, 0.0, 0.5, {1: 0.0}), Segment(1, 0.5, 1.0, {1: 0.0, 0: 0.5}))
"""Segments of two scales, the finer entering at t = 0.5."""


class PathConformance(Conformance):
    """`segments` on which the path is tried; `start_bound` is the largest alpha / sigma at a scale's start
    (VP: .0066); `sub_bands` the number of sub-bands of a band for which the path has a pattern; `continuous =
    False` where a scale's law may jump from a segment to the next, as with windows that overlap."""

    kind = "path"
    segments: ClassVar[tuple[Segment, ...]] = TWO_SCALES
    start_bound: ClassVar[float] = 0.01
    sub_bands: ClassVar[int] = 1
    continuous: ClassVar[bool] = True

    def make(self) -> Path:
        raise NotImplementedError("override make() to return the path under test")

    def cases(self) -> list[tuple[Segment, int, Tensor]]:
        """(segment, scale, random times inside the scale's own interval), past the segment's stop
        too."""
        path = self.make()
        found = []
        for segment in self.segments:
            for k in segment.scales:
                uniform = torch.rand(64, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
                low = self.enters(segment, k)
                found.append((segment, k, low + (path.t_max(segment) - low) * (0.01 + 0.97 * uniform)))
        return found

    def enters(self, segment: Segment, scale: int) -> float:
        """The time from which a scale's path is defined in a segment."""
        return segment.global_time(segment.scale_starts[scale]) if self.continuous else segment.start

    def test_velocity_is_the_derivative_of_position(self) -> None:
        """alpha' and sigma' against autograd of alpha and sigma, in float64."""
        path = self.make()
        for segment, k, times in self.cases():
            t = times.clone().requires_grad_()
            c = path.coefficients(t, segment, k)
            for i in range(c.alpha.shape[-1] if c.pattern else 1):
                one = [v[..., i] if c.pattern else v for v in (c.alpha, c.sigma, c.dalpha, c.dsigma)]
                (dalpha,) = torch.autograd.grad((one[0] + 0 * t).sum(), t, retain_graph=True)
                (dsigma,) = torch.autograd.grad((one[1] + 0 * t).sum(), t, retain_graph=True)
                assert relative(one[2] + 0 * t, dalpha) <= 1e-9, f"alpha' of scale {k}"
                assert relative(one[3] + 0 * t, dsigma) <= 1e-9, f"sigma' of scale {k}"

    def test_shapes_follow_the_times(self) -> None:
        """Coefficients are shaped like t, a scalar or [b], in t's dtype; with a pattern, one value per
        sub-band more. They multiply samples with one, two and three axes."""
        path, segment = self.make(), self.segments[-1]
        inside = (segment.start + segment.stop) / 2
        for t in (torch.tensor(inside), torch.tensor(inside, dtype=torch.float64), torch.full((3,), inside)):
            for k in segment.scales:
                c = path.coefficients(t, segment, k)
                for value in (c.alpha, c.sigma, c.dalpha, c.dsigma):
                    assert value.shape == (*t.shape, *([self.sub_bands] if c.pattern else []))
                    assert value.dtype == t.dtype
                for sizes in ((4,), (2, 2), (2, 2, 2)):
                    image = normal(3, 2 * self.sub_bands, *sizes).to(t.dtype)
                    assert c.expand(image).position(image, image).shape == image.shape
            assert path.model_time(t, segment).shape == t.shape

    def test_it_starts_in_noise(self) -> None:
        """Where a scale enters hardly any data is there, and some noise is."""
        path, seen = self.make(), set[int]()
        for segment in self.segments:
            for k in set(segment.scales) - (seen if self.continuous else set()):
                if k in seen:
                    continue
                c = path.coefficients(torch.tensor(segment.start, dtype=torch.float64), segment, k)
                assert bool((c.sigma > 0).all())
                assert float((c.alpha / c.sigma).abs().max()) <= self.start_bound
                seen.add(k)

    def test_it_ends_at_the_data(self) -> None:
        """alpha = 1, sigma = 0 at the end, up to the `sigma_min` that the path states; everything is finite
        up to `u_max`."""
        path = self.make()
        segment, allowed = self.segments[-1], 1e-9 + 1.01 * path.sigma_min
        for k in segment.scales:
            c = path.coefficients(torch.tensor(path.solve_t_max(segment), dtype=torch.float64), segment, k)
            assert float((c.alpha - 1).abs().max()) <= allowed
            assert float(c.sigma.abs().max()) <= allowed
            assert all(bool(torch.isfinite(value).all()) for value in (c.alpha, c.sigma, c.dalpha, c.dsigma))

    def test_grids_rise_from_begin_to_stop(self) -> None:
        """n + 1 rising times; the last is the segment's stop."""
        path = self.make()
        for segment in self.segments:
            placed = replace(segment, t_eps=path.first(segment) - segment.start)
            for steps in (1, 2, 5):
                grid = path.grid(placed, steps)
                assert len(grid) == steps + 1
                assert grid[0] >= placed.sampling_start - 1e-12
                assert grid[-1] == segment.stop
                assert all(a < b for a, b in itertools.pairwise(grid))

    def test_training_times_snap_once(self) -> None:
        """`discretize` leaves times where they are, or moves them into the segment for good."""
        path = self.make()
        for segment, _, times in self.cases():
            inside = times[(times >= segment.start) & (times <= segment.stop)]
            moved = path.discretize(inside, segment)
            assert bool((moved >= segment.start - 1e-12).all())
            assert bool((moved <= segment.stop).all())
            assert (path.discretize(moved + 1e-9, segment) - moved).abs().max() <= 1e-6

    def test_conversions_invert(self) -> None:
        """Velocity, denoised, noise and score each give back the (x1, x0) they were made from."""
        path = self.make()
        for segment, k, t in self.cases():
            channels = self.sub_bands
            data, noise = normal(64, channels, 2, 2, key=("x1", k)), normal(64, channels, 2, 2, key=("x0", k))
            c = path.coefficients(t, segment, k)
            there = (c.alpha.abs() > 1e-6) & (
                c.sigma > 1e-6
            )  # a band that is not there yet cannot come back, nor noise that is gone
            there = there.all(-1) if c.pattern else there
            t, data, noise = t[there], data[there], noise[there]
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
        """Coefficients depend on a scale's own entry, so that its path is continuous from segment to
        segment."""
        path = self.make()
        for before, after in zip(self.segments, self.segments[1:]) if self.continuous else ():
            t = torch.tensor(after.start, dtype=torch.float64)
            for k in before.scales:
                left, right = path.coefficients(t, before, k), path.coefficients(t, after, k)
                assert relative(left.alpha, right.alpha) <= 1e-12
                assert relative(left.sigma, right.sigma) <= 1e-12
