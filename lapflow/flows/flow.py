"""The mathematics of a composition: the only place where a training pair is made and where a sampler's state
starts, crosses from segment to segment and ends, so that training and sampling cannot drift apart.

All of it is done on bands. A *representation* says what the network and the solver see of them: the bands
themselves, or merged into the one image that the active bands make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lapflow.core.bridge import Bridge, ConditionalBridge
from lapflow.core.condition import IMAGE, Condition, Image
from lapflow.core.coupling import Coupling, Independent
from lapflow.core.decomposition import Band, Decomposition
from lapflow.core.errors import ConfigError, suggest
from lapflow.core.intervals import Draw, IntervalSchedule, Segment
from lapflow.core.noise import DecomposedNoise, Noise
from lapflow.core.path import Coefficients, Path
from lapflow.core.prediction import Prediction, VelocityPrediction
from lapflow.core.state import (
    Device,
    Shape,
    State,
    StateView,
    Times,
    batch_size,
    map_times,
    scalar_time,
    take_rows,
    time_of,
)
from lapflow.core.time_law import TimeLaw, Uniform
from lapflow.util.random import Generators, first_generator, rand

Representation = Literal["bands", "merged"]
REPRESENTATIONS: tuple[Representation, ...] = ("bands", "merged")

T_EPS = 1e-3
"""How much of a segment a prediction that divides by alpha skips where alpha starts at 0, and one that
divides by sigma where sigma ends at 0 (SiT's t0 and 1 - t1)."""


@dataclass(frozen=True)
class TrainingPoint:
    """A training pair: the samples `index` of the batch (None: all) in `segment`.

    What the network is given, `network(point.state, point.t, point.condition)`: `state` maps the
    representation's scales to [n, c_k, *sizes_k], `t` its times ([n], or {k: [n]}), and `condition` holds the
    rows of what is given beside (in a cascade the coarser image and its level too). `target` is what its head
    `main` should return, at `weights` per scale (a number, or [n]). Behind it: the path's times `path_time`
    [n] (or each scale's own, {k: [n]}), bands of `data` (x1) and `noise` (x0, at the segment's noise scale).
    `fraction` is n over the batch size. `t_end`, only if it was asked for, is a second time, at or after `t`.
    """

    state: State
    t: Times
    target: State
    weights: Mapping[int, Tensor | float]
    segment: Segment
    data: State
    noise: State
    index: Tensor | None
    fraction: float
    path_time: Times
    condition: Condition
    t_end: Times | None = None


class Flow:
    """decomposition + intervals + path + bridge (+ noise, law of training times, coupling of data and noise,
    what the network predicts and sees).

    Made by `lapflow.compose`, which checks its law. Raises `ConfigError` for parts that do not fit.
    """

    def __init__(
        self,
        decomposition: Decomposition,
        intervals: IntervalSchedule,
        path: Path,
        bridge: Bridge,
        *,
        noise: Noise | None = None,
        time_law: TimeLaw | None = None,
        coupling: Coupling | None = None,
        prediction: Prediction | None = None,
        representation: Representation = "bands",
    ) -> None:
        if representation not in REPRESENTATIONS:
            raise ConfigError(
                "unknown representation",
                got=repr(representation),
                expected=suggest(str(representation), REPRESENTATIONS),
            )
        self.decomposition, self.intervals, self.path, self.bridge = decomposition, intervals, path, bridge
        self.noise = noise or DecomposedNoise(decomposition)
        self.time_law, self.coupling = time_law or Uniform(), coupling or Independent()
        self.prediction, self.representation = prediction or VelocityPrediction(), representation
        self.levels = decomposition.levels
        self.segments = self._placed(intervals.segments(self.levels, decomposition.contractions))
        self.time_law.require(self.levels)
        self._refuse_what_does_not_fit()

    # ------------------------------------------------------------------ bands and representations

    def bands(self, shape: Shape) -> dict[int, Band]:
        """The bands of a sample of `shape`, coarse to fine."""
        return self.decomposition.bands(shape)

    def network_bands(self, shape: Shape) -> dict[int, Band]:
        """What a network sees of an image of `shape`: the bands, or the merged images at the resolutions of
        the segments, coarse to fine, with the channels of the condition that comes beside each."""
        bands = self.bands(shape)
        if self.representation == "bands":
            return bands
        found = {}
        for segment in self.segments:
            empty = {k: torch.empty(1, *bands[k].shape, device="meta") for k in segment.scales}
            c, *sizes = self.decomposition.synthesize(empty, segment.finest)[0].shape
            condition = c if isinstance(self.bridge, ConditionalBridge) and segment.index else 0
            std = bands[segment.finest].direction_std
            found[segment.finest] = Band(segment.finest, c, tuple(sizes), std, std, condition)
        return dict(sorted(found.items(), reverse=True))

    def to_image(self, bands: StateView, segment: Segment) -> State:
        """The representation of the active bands: themselves, or {finest: the image that they make}."""
        if self.representation == "bands":
            return dict(bands)
        return {segment.finest: self.decomposition.synthesize(bands, segment.finest)}

    def to_bands(self, state: StateView, segment: Segment) -> State:
        """The active bands of a representation: the inverse of `to_image`."""
        if self.representation == "bands":
            return dict(state)
        return self.decomposition.analyze(state[segment.finest], segment.finest)

    def noise_std(self, scale: int, segment: Segment) -> float:
        """Std of a segment's noise per orthonormal direction of the range of band `scale`."""
        return self._direction[scale] * segment.noise_scale

    # ------------------------------------------------------------------ training

    def training_points(
        self,
        x: Tensor,
        generator: Generators,
        stage_generator: torch.Generator | None = None,
        condition: Condition | Tensor | None = None,
        *,
        second_time: bool = False,
    ) -> list[TrainingPoint]:
        """The training pairs of a batch `x` [b, c, *sizes] and its condition; each sample is in one of them.

        Draws, in this order: what is common to the batch, from `stage_generator` (default: the first of
        `generator`); then from `generator` each sample's time, noise and, in a cascade, level and noise of
        its condition.
        """
        stage = first_generator(generator) if stage_generator is None else stage_generator
        batch, dtype = x.shape[0], torch.float64 if x.dtype == torch.float64 else torch.float32
        draws = self.training_draws(batch, generator, stage, dtype=dtype, device=x.device)
        data, given = self.decomposition.analyze(x), Condition.of(condition)
        shape = tuple(x.shape[1:])
        # One set of white draws for each sample, whichever segment it is in, so that its noise is its own
        # generator's alone.
        white = self.noise.draw_white(shape, batch, generator, dtype=x.dtype, device=x.device)
        if not isinstance(self.coupling, Independent):
            image = self.decomposition.synthesize(self.noise.from_white(white))
            rows = self.coupling.pair(x, image, given.labels)
            white = white if rows is None else take_rows(white, rows)
        finest = self.finest_noise_scales()
        scales = [finest[self.bridge.noise_index(d.segment)] for d in draws]
        noise = {k: self.noise.from_white(white, k) for k in set(scales)}
        extra = None
        if isinstance(self.bridge, ConditionalBridge):
            level = self.bridge.draw_corruption_level(rand((batch,), generator, dtype=dtype, device=x.device))
            extra = level, self.noise.draw(shape, batch, generator, dtype=x.dtype, device=x.device)
        portion = rand((batch,), generator, dtype=dtype, device=x.device) if second_time else None
        return [
            self._point(data, noise[k], draw, batch, given, extra, portion) for draw, k in zip(draws, scales)
        ]

    def training_draws(
        self,
        batch: int,
        generator: Generators,
        stage_generator: torch.Generator,
        *,
        dtype: torch.dtype,
        device: Device,
    ) -> list[Draw]:
        """Which samples of a batch train in which segment, at which times: what training draws first."""
        return self.intervals.draw(
            self.segments,
            batch,
            generator=generator,
            stage_generator=stage_generator,
            train_t_max=[self.path.train_t_max(segment) for segment in self.segments],
            time_law=self.time_law,
            dtype=dtype,
            device=device,
        )

    def training_point(
        self,
        x: Tensor,
        generator: Generators,
        stage_generator: torch.Generator | None = None,
        condition: Condition | Tensor | None = None,
        *,
        second_time: bool = False,
    ) -> TrainingPoint:
        """The one training pair of a batch, for a schedule that draws one segment per batch."""
        points = self.training_points(x, generator, stage_generator, condition, second_time=second_time)
        if len(points) != 1:
            raise ConfigError(
                "this schedule draws several segments per batch",
                got=f"{len(points)} training pairs",
                expected="one",
                remedy="use training_points and weigh the losses of each by point.fraction",
            )
        return points[0]

    def _point(
        self,
        data: StateView,
        noise: StateView,
        draw: Draw,
        batch: int,
        given: Condition,
        extra: tuple[Tensor, State] | None,
        portion: Tensor | None,
    ) -> TrainingPoint:
        segment, rows = draw.segment, slice(None) if draw.index is None else draw.index
        given = given.rows(rows)
        data = {k: data[k][rows] for k in segment.scales}
        noise = {k: noise[k][rows] * segment.noise_scale for k in segment.scales}
        t = map_times(lambda u: self.path.discretize(u, segment), segment.own_times(draw.t))
        coefficients = self.coefficients(t, segment, data)
        bands = {k: c.position(data[k], noise[k]).to(data[k].dtype) for k, c in coefficients.items()}
        target = self._target(bands, data, noise, segment, coefficients)
        if extra is not None and segment.index:
            before = self.segments[segment.index - 1]
            level, pyramid = extra[0][rows], take_rows(extra[1], rows)
            image = self.condition_image({k: data[k] for k in before.scales}, pyramid, level, segment)
            given = given.beside(IMAGE, Image(image, level))
        return TrainingPoint(
            self.to_image(self._given(bands, coefficients), segment),
            self.model_time(t, segment),
            target,
            self._weights(t, segment),
            segment,
            data,
            noise,
            draw.index,
            batch_size(data) / batch,
            t,
            given,
            None if portion is None else self._t_end(t, portion[rows], segment),
        )

    def _t_end(self, t: Times, portion: Tensor, segment: Segment) -> Times:
        """The second time: `portion` of the way from `t` to where the path ends."""
        end = self.path.train_t_max(segment) if isinstance(t, Tensor) else self.path.u_max
        return self.model_time(map_times(lambda u: u + portion * (end - u), t), segment)

    def coefficients(self, t: Times, segment: Segment, like: StateView) -> dict[int, Coefficients]:
        """The path's coefficients of the active bands at times `t`, or at the scales' own times (with
        derivatives by these), shaped to multiply the bands `like`."""
        return {k: self._coefficients(t, segment, k).expand(like[k]) for k in segment.scales}

    def _coefficients(self, t: Times, segment: Segment, scale: int) -> Coefficients:
        own = segment if isinstance(t, Tensor) else replace(segment, windows=None)
        return self.path.coefficients(time_of(t, scale), own, scale)

    def model_time(self, t: Times, segment: Segment) -> Times:
        """The time, or the times, that the network is told at times `t` or the scales' own times."""
        return map_times(lambda u: self.path.model_time(u, segment), segment.own_times(t))

    def interpolate(
        self, data: StateView, noise: StateView, t: Tensor, segment: Segment
    ) -> tuple[State, State]:
        """(bands, velocities) of the segment's scales at times `t`: x = alpha x1 + sigma x0 and its d/dt,
        with x0 at the segment's noise scale."""
        found = self.coefficients(t, segment, data)
        state = {k: c.position(data[k], noise[k]).to(data[k].dtype) for k, c in found.items()}
        return state, {k: c.velocity(data[k], noise[k]).to(data[k].dtype) for k, c in found.items()}

    def target(self, bands: State, data: State, noise: State, t: Tensor, segment: Segment) -> State:
        """What the network should return, in its representation, at the bands x of the pair (x1, x0)."""
        found = self.coefficients(segment.own_times(t), segment, bands)
        return self._target(bands, data, noise, segment, found)

    def _target(
        self, bands: State, data: State, noise: State, segment: Segment, found: Mapping[int, Coefficients]
    ) -> State:
        target = {}
        for k, c in found.items():
            wanted = self.prediction.target(c, bands[k], data[k], noise[k], self.noise_std(k, segment))
            target[k] = wanted.to(data[k].dtype)
        return self.to_image(target, segment)

    def _weights(self, t: Times, segment: Segment) -> dict[int, Tensor | float]:
        """Per scale of the representation. Merged, the coarsest band's coefficients weigh the image."""
        merged, weights = self.representation == "merged", {}
        for k in (segment.finest,) if merged else segment.scales:
            c = self._coefficients(t, segment, self.levels - 1 if merged else k)
            weight = self.prediction.weight(c, self.noise_std(k, segment))
            weights[k] = self.intervals.scale_weight(k, self.levels) * weight
        return weights

    # ------------------------------------------------------------------ what a prediction means

    def network_input(self, state: StateView, t: Tensor, segment: Segment) -> State:
        """The state [representation] as the network is given it: preconditioned. `t` scalar or [b]."""
        if not self.prediction.preconditions:
            return dict(state)
        bands = self.to_bands(state, segment)
        return self.to_image(self._given(bands, self.coefficients(t, segment, bands)), segment)

    def velocity(self, output: StateView, state: StateView, t: Tensor, segment: Segment) -> State:
        """dx/dt [representation], given the network's main output at `state`."""
        if self.prediction.is_velocity:
            velocity = dict(output)
        else:
            bands, predicted, found = self._parts(output, state, t, segment)
            velocity = {}
            for k, c in found.items():
                v = self.prediction.velocity(c, bands[k], predicted[k], self.noise_std(k, segment))
                velocity[k] = v.to(bands[k].dtype)
            velocity = self.to_image(velocity, segment)
        if segment.windows is None:
            return velocity
        # From the scales' own times to t. A scale that waits does not move, whatever is predicted for it.
        rates = {k: segment.of(k).rate for k in velocity}
        return {k: v * rates[k] if rates[k] else torch.zeros_like(v) for k, v in velocity.items()}

    def endpoints(
        self, output: StateView, state: StateView, t: Tensor, segment: Segment
    ) -> tuple[State, State]:
        """(x1, x0) as bands, given the network's main output at `state` [representation]."""
        bands, predicted, found = self._parts(output, state, t, segment)
        data, noise = {}, {}
        for k, c in found.items():
            x1, x0 = self.prediction.endpoints(c, bands[k], predicted[k], self.noise_std(k, segment))
            data[k], noise[k] = x1.to(bands[k].dtype), x0.to(bands[k].dtype)
        return data, noise

    def _parts(
        self, output: StateView, state: StateView, t: Tensor, segment: Segment
    ) -> tuple[State, State, dict[int, Coefficients]]:
        """Bands, the network's main output and the coefficients, band by band."""
        bands = self.to_bands(state, segment)
        found = self.coefficients(segment.own_times(t), segment, bands)
        return bands, self.to_bands(output, segment), found

    def _given(self, bands: StateView, found: Mapping[int, Coefficients]) -> State:
        return {k: self.prediction.precondition(c, bands[k]).to(bands[k].dtype) for k, c in found.items()}

    # ------------------------------------------------------------------ sampling

    def solve_t_max(self, segment: Segment) -> float:
        """The last time of a segment at which the velocity is finite: the path's, or a thousandth of
        the segment before where the prediction needs some noise and there is none (SiT's t1)."""
        last = self.path.solve_t_max(segment)
        if self.prediction.needs_noise and not all((c.sigma > 0).all() for c in self._at(last, segment)):
            last -= T_EPS * (segment.stop - segment.start)
        return last

    def draw_noise(
        self, shape: Shape, batch: int, generator: Generators, *, dtype: torch.dtype, device: Device
    ) -> list[State]:
        """All the noise that starts, bridges and conditions of `batch` samples of `shape` need:
        the noise pyramids, in the order in which `Bridge.noise_index` names them."""
        return self.noise_from(self.draw_white(shape, batch, generator, dtype=dtype, device=device))

    def draw_white(
        self, shape: Shape, batch: int, generator: Generators, *, dtype: torch.dtype, device: Device
    ) -> list[State]:
        """The white draws behind `draw_noise`, in its order, by `Noise.white_shapes`."""
        return [
            self.noise.draw_white(shape, batch, generator, dtype=dtype, device=device)
            for _ in self.finest_noise_scales()
        ]

    def noise_from(self, white: Sequence[StateView]) -> list[State]:
        """The noise pyramids of white draws: `draw_noise` is `noise_from` of `draw_white`."""
        return [
            self.noise.from_white(draws, k)
            for draws, k in zip(white, self.finest_noise_scales(), strict=True)
        ]

    def finest_noise_scales(self) -> list[int]:
        """The finest scale for which each of a sample's noise pyramids is used."""
        if self._count == 1:
            return [0]
        finest = {self.bridge.noise_index(segment): segment.finest for segment in self.segments}
        return [finest.get(i, 0) for i in range(self._count)]

    def enter(self, index: int, state: StateView, noise: Sequence[StateView]) -> State:
        """The state [representation] at the start of segment `index`, from that at the end of the one before
        (empty for the first) and the sample's noise pyramids."""
        after, before = self.segments[index], self.segments[index - 1] if index else None
        bands = {} if before is None else self.to_bands(state, before)
        return self.to_image(self.bridge.cross(bands, noise, before, after, self.path), after)

    def condition(self, index: int, state: StateView, noise: Sequence[StateView]) -> Condition:
        """What the network of segment `index` sees of the finished state before: nothing but in a cascade."""
        if not isinstance(self.bridge, ConditionalBridge) or index == 0:
            return Condition()
        before, after = self.segments[index - 1], self.segments[index]
        bands, corruption = self.to_bands(state, before), noise[self.bridge.noise_index(after) + 1]
        first = next(iter(bands.values()))
        level = torch.full((len(first),), self.bridge.corruption_level, device=first.device)
        return Condition({IMAGE: Image(self.condition_image(bands, corruption, level, after), level)})

    def condition_image(
        self, bands: StateView, corruption: StateView, level: Tensor, after: Segment
    ) -> State:
        """{finest: the finished bands, corrupted at `level` [b] and upsampled}, for training and sampling."""
        assert isinstance(self.bridge, ConditionalBridge), "only a cascade hands an image on"
        before = self.segments[after.index - 1]
        return self.to_image(self.bridge.corrupt(bands, corruption, level, before, after), after)

    def finish(self, state: StateView) -> Tensor:
        """The samples [b, c, *sizes] that the final state [representation] stands for."""
        return self.decomposition.synthesize(self.to_bands(state, self.segments[-1]))

    # ------------------------------------------------------------------ set-up

    def _placed(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        bands = self.decomposition.bands(self.decomposition.smallest)
        self._direction = {k: self.noise.direction_std(band) for k, band in bands.items()}
        self._count = self.bridge.num_noise_draws(len(segments))
        unit = self.intervals.unit_pixel_variance
        scales = [1 / bands[s.finest].direction_std if unit else 1.0 for s in segments]
        eps = [self._first(s) - s.start for s in segments]
        return tuple(replace(s, noise_scale=c, t_eps=e) for s, c, e in zip(segments, scales, eps))

    def _first(self, segment: Segment) -> float:
        """Where sampling enters a segment: the path's time, or later if the prediction needs some data."""
        first = self.path.first(segment)
        if self.prediction.needs_data and not all((c.alpha != 0).all() for c in self._at(first, segment)):
            first += T_EPS * (segment.stop - segment.start)
        return first

    def _at(self, t: float, segment: Segment) -> list[Coefficients]:
        return [self.path.coefficients(scalar_time(t), segment, k) for k in segment.scales]

    def _refuse_what_does_not_fit(self) -> None:
        name = type(self.prediction).__name__
        if not self.prediction.any_noise and not self.noise.white:
            raise ConfigError(
                "the score of coloured noise is not a multiple of the noise",
                got=f"{name} with blurred noise",
                expected="another prediction",
            )
        conditional = isinstance(self.bridge, ConditionalBridge)
        if conditional and not self.noise.white:
            raise ConfigError("a cascade's noise is white", got="blurred noise", expected="noise: decomposed")
        if any(s.t_eps and s.index and not (conditional or self.bridge.designed) for s in self.segments):
            raise ConfigError(
                f"{name} divides by alpha, and a scale enters a later segment where it is 0",
                got=f"{name} with {len(self.segments)} segments",
                expected="prediction: velocity, denoised or edm",
            )
        if conditional and self.representation == "bands":
            raise ConfigError(
                f"{type(self.bridge).__name__} hands an image on",
                got="representation: bands",
                expected="representation: merged",
                remedy="set flow.representation=merged",
            )
        if self.intervals.times_per_scale and not (
            self.path.times_per_scale and self.representation == "bands"
        ):
            raise ConfigError(
                f"{type(self.intervals).__name__} gives each scale a time of its own",
                got=f"{type(self.path).__name__}, representation: {self.representation}",
                expected="a path that takes times per scale (linear, gvp, vp), representation: bands",
            )
        if self.representation == "merged" and any(
            b.finest == a.finest for a, b in zip(self.segments, self.segments[1:])
        ):
            raise ConfigError(
                "two segments have the same resolution",
                expected="one resolution per segment in the merged representation",
            )
