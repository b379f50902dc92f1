"""The kits of a path, of what a network predicts on it, and of the bridges between its segments."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.bridge import Bridge, ConditionalBridge
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, Path
from lapflow.core.prediction import Prediction
from lapflow.core.state import State, map_state, scalar_time, take_rows
from lapflow.plugins.kits.base import Conformance, equal, near, normal, relative

TWO_SCALES = (Segment(0, 0.0, 0.5, {1: 0.0}), Segment(1, 0.5, 1.0, {1: 0.0, 0: 0.5}))
"""Segments of two scales, the finer entering at t = 0.5."""


class PathConformance(Conformance[Path]):
    """Derivatives that are derivatives, ends that are noise and data, conversions that invert.

    `segments` on which the path is tried; `start_bound` is the largest alpha / sigma at a scale's start (VP:
    .0066); `sub_bands` the number of sub-bands of a band for which the path has a pattern; `continuous =
    False` where a scale's law may jump from a segment to the next, as with windows that overlap.
    """

    kind = "path"
    segments: ClassVar[tuple[Segment, ...]] = TWO_SCALES
    start_bound: ClassVar[float] = 0.01
    sub_bands: ClassVar[int] = 1
    continuous: ClassVar[bool] = True

    def cases(self) -> list[tuple[Segment, int, Tensor]]:
        """(segment, scale, random times in the scale's own interval), past the segment's stop too."""
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
            for name, values, rates in (("alpha", c.alpha, c.dalpha), ("sigma", c.sigma, c.dsigma)):
                for i in range(values.shape[-1] if c.pattern else 1):
                    value, rate = (x[..., i] if c.pattern else x for x in (values, rates))
                    (derivative,) = torch.autograd.grad((value + 0 * t).sum(), t, retain_graph=True)
                    assert relative(rate + 0 * t, derivative) <= 1e-9, f"{name}' of scale {k}"

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
            for k in set(segment.scales) - seen:
                c = path.coefficients(scalar_time(segment.start), segment, k)
                assert bool((c.sigma > 0).all())
                assert float((c.alpha / c.sigma).abs().max()) <= self.start_bound
                seen.add(k)

    def test_it_ends_at_the_data(self) -> None:
        """alpha = 1, sigma = 0 at the end, up to the `sigma_min` that the path states; all of it finite."""
        path = self.make()
        segment, allowed = self.segments[-1], 1e-9 + 1.01 * path.sigma_min
        for k in segment.scales:
            c = path.coefficients(scalar_time(path.solve_t_max(segment)), segment, k)
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
        path, channels = self.make(), self.sub_bands
        for segment, k, t in self.cases():
            data, noise = normal(64, channels, 2, 2, key=("x1", k)), normal(64, channels, 2, 2, key=("x0", k))
            c = path.coefficients(t, segment, k)
            # A band that is not there yet cannot come back, nor noise that is gone.
            there = (c.alpha.abs() > 1e-6) & (c.sigma > 1e-6)
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
        """A scale's coefficients depend on its own entry: its path is continuous over the segments."""
        path = self.make()
        for before, after in itertools.pairwise(self.segments) if self.continuous else ():
            t = scalar_time(after.start)
            for k in before.scales:
                left, right = path.coefficients(t, before, k), path.coefficients(t, after, k)
                assert relative(left.alpha, right.alpha) <= 1e-12
                assert relative(left.sigma, right.sigma) <= 1e-12


class PredictionConformance(Conformance[Prediction]):
    """Targets linear in the pair, conversions that give the pair back, a velocity that is one: tried on alpha
    = t, sigma = 1 - t at times inside (0, 1), with noise of std `noise_std`."""

    kind = "prediction"
    noise_std: ClassVar[float] = 0.5

    def pair(self) -> tuple[Coefficients, Tensor, Tensor, Tensor]:
        """(coefficients, x, x1, x0) of a batch of eight."""
        t = torch.linspace(0.05, 0.95, 8, dtype=torch.float64)
        one = torch.ones_like(t)
        data, noise = normal(8, 1, 2, 2, key="x1"), self.noise_std * normal(8, 1, 2, 2, key="x0")
        c = Coefficients(t, 1 - t, one, -one).expand(data)
        return c, c.position(data, noise), data, noise

    def test_the_pair_comes_back(self) -> None:
        """`endpoints` of `target` is (x1, x0)."""
        prediction, (c, x, data, noise) = self.make(), self.pair()
        got = prediction.endpoints(c, x, prediction.target(c, x, data, noise, self.noise_std), self.noise_std)
        assert relative(got[0], data) <= 1e-9
        assert relative(got[1], noise) <= 1e-9

    def test_its_velocity_is_the_path_s(self) -> None:
        """`velocity` of `target` is dx/dt."""
        prediction, (c, x, data, noise) = self.make(), self.pair()
        got = prediction.velocity(c, x, prediction.target(c, x, data, noise, self.noise_std), self.noise_std)
        assert relative(got, c.velocity(data, noise)) <= 1e-9

    def test_the_target_is_linear_in_the_pair(self) -> None:
        """At a given x, so that the optimum is the target of the conditional means."""
        prediction, (c, x, data, noise) = self.make(), self.pair()
        one = prediction.target(c, x, data, noise, self.noise_std)
        other = prediction.target(c, x, noise, data, self.noise_std)
        mixed = prediction.target(c, x, 0.3 * data + 0.7 * noise, 0.3 * noise + 0.7 * data, self.noise_std)
        assert relative(mixed, 0.3 * one + 0.7 * other) <= 1e-9

    def test_weights_and_inputs_are_sane(self) -> None:
        """Weights are positive and finite, inputs finite and of x's shape."""
        prediction, (c, x, _, _) = self.make(), self.pair()
        weight = torch.as_tensor(prediction.weight(c, self.noise_std))
        assert bool((weight > 0).all())
        assert bool(torch.isfinite(weight).all())
        given = prediction.precondition(c, x)
        assert given.shape == x.shape
        assert bool(torch.isfinite(given).all())


class StraightPath(Path):
    """alpha = (t - T) / (1 - T), sigma = 1 - t: a path for a bridge to be tried with."""

    def coefficients(self, t: Tensor, segment: Segment, scale: int) -> Coefficients:
        start, u, rate = segment.scale_starts[scale], segment.local_time(t), segment.rate
        one = rate * torch.ones_like(t)
        return Coefficients((u - start) / (1 - start), 1 - u, one / (1 - start), -one)


class BridgeConformance(Conformance[Bridge]):
    """Affine in (state, noise), over the right scales, at the start and between two segments, for samples
    with `axes` axes. A bridge's law is checked by `Flow` (`flows.laws`)."""

    kind = "bridge"
    axes: ClassVar[int] = 2
    segments: ClassVar[tuple[Segment, ...]] = TWO_SCALES

    @property
    def shapes(self) -> dict[int, tuple[int, ...]]:
        return {1: (2, 1, *[4] * self.axes), 0: (2, 1, *[8] * self.axes)}

    def noise(self, key: str) -> State:
        return {k: normal(*shape, key=(key, k)) for k, shape in self.shapes.items()}

    def cross(self, index: int, state: State, noise: State) -> State:
        before = self.segments[index - 1] if index else None
        bridge = self.make()
        # The same pyramid in every place: what is tried here does not depend on which one a bridge takes.
        draws = [noise] * bridge.num_noise_draws(len(self.segments))
        return bridge.cross(state, draws, before, self.segments[index], StraightPath())

    def crossings(self) -> list[tuple[int, State]]:
        """(segment entered, the state before it)."""
        states: list[tuple[int, State]] = [(0, {})]
        for i, segment in enumerate(self.segments[:-1]):
            states.append((i + 1, {k: normal(*self.shapes[k], key=("state", k)) for k in segment.scales}))
        return states

    def test_the_state_after_holds_the_segment_s_scales(self) -> None:
        """Coarse to fine, in the bands' shapes."""
        for index, state in self.crossings():
            out = self.cross(index, state, self.noise("a"))
            assert list(out) == list(self.segments[index].scales)
            assert all(tuple(x.shape) == self.shapes[k] for k, x in out.items())

    def test_linear_in_state_and_noise(self) -> None:
        """cross(a u + b v) = a cross(u) + b cross(v), and nothing comes from nothing."""

        def mix(u: State, v: State) -> State:
            return map_state(lambda x, y: 2 * x - 3 * y, u, v)

        a, b = self.noise("a"), self.noise("b")
        for index, state in self.crossings():
            other = map_state(lambda x: x.flip(-1), state)
            first, second = self.cross(index, state, a), self.cross(index, other, b)
            mixed = self.cross(index, mix(state, other), mix(a, b))
            assert near(mix(first, second), mixed, 1e-11)

    def test_a_pure_function_that_leaves_its_arguments_alone(self) -> None:
        """Twice the same, and neither state nor noise is written to."""
        for index, state in self.crossings():
            noise = self.noise("a")
            kept_state, kept_noise = map_state(torch.clone, state), map_state(torch.clone, noise)
            first, again = self.cross(index, state, noise), self.cross(index, state, noise)
            assert equal(again, first)
            assert equal(state, kept_state)
            assert equal(noise, kept_noise)

    def test_samples_do_not_mix(self) -> None:
        """A sample's crossing depends on its own state and noise."""
        one = slice(1)
        for index, state in self.crossings():
            noise = self.noise("a")
            whole = self.cross(index, state, noise)
            alone = self.cross(index, take_rows(state, one), take_rows(noise, one))
            assert near(alone, take_rows(whole, one), 1e-12)

    def test_a_condition_is_affine_and_of_the_next_segment(self) -> None:
        """A conditional bridge's `corrupt` is linear, in the next segment's bands; level 0 is the image."""
        bridge = self.make()
        if not isinstance(bridge, ConditionalBridge):
            return
        before, after = self.segments[0], self.segments[1]
        image = {k: normal(*self.shapes[k], key=("image", k)) for k in before.scales}
        noise, level = self.noise("c"), torch.full((2,), bridge.corruption_level, dtype=torch.float64)
        out = bridge.corrupt(image, noise, level, before, after)
        assert list(out) == list(after.scales)
        doubled = map_state(lambda x: 2 * x, image), map_state(lambda x: 2 * x, noise)
        assert near(bridge.corrupt(*doubled, level, before, after), map_state(lambda x: 2 * x, out), 1e-11)
        clean = bridge.corrupt(image, noise, torch.zeros_like(level), before, after)
        assert near(clean, {k: x for k, x in image.items() if k in clean}, 1e-12)
        assert not any(bool(x.any()) for k, x in clean.items() if k not in image)
        drawn = bridge.draw_corruption_level(torch.linspace(0, 0.999, 7))
        assert bool((drawn >= 0).all())
        assert bool((drawn < 1).all())
