"""The law check: does the sampler's state follow the law that training assumes?

Training pairs at time t have the law x_k = alpha_k(t) x1_k + sigma_k(t) x0_k. The sampler's state must have
this law at the start of the first segment, after each bridge, and be the data itself at the end. Starts,
bridges and paths are linear maps of (data, white noise), so two laws are equal for every data distribution
when their mean operators are equal and their noise covariances N N^T are. Both are compared as operators in
float64, by applying them to random vectors of the bands (two different linear operators agree on a random
vector with probability 0), on the smallest sample that splits.

Where a scale enters from noise alone while alpha > 0 (VP), the composition has a *prior error*: it is
reported as alpha / sigma and not counted as a mistake while it is small, or where it is by design (Relay
Diffusion). A conditional bridge starts every segment from noise alone, and is checked as a start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lapflow.core.bridge import ConditionalBridge
from lapflow.core.errors import LawError
from lapflow.core.intervals import Segment
from lapflow.core.state import Shape, State, scalar_time
from lapflow.flows.flow import Flow
from lapflow.util.random import keyed_generator, randn

PRIOR_BOUND = 0.15
"""The largest alpha / sigma at which a scale may enter from pure noise."""

_White = Mapping[tuple[int, int], Tensor]


@dataclass(frozen=True)
class LawRow:
    """One band at one place in time: the sampler's law beside the training law.

    `place` is `start`, `bridge` or `end`. Noise stds are per direction that the band's noise excites;
    `noise_error` and `mean_error` are relative deviations of the covariance and of the mean operator. `prior`
    is alpha / sigma where the scale enters from noise alone, else 0; `mean_error` does not count it, and
    `designed` says that no bound holds for it. `allowed` bounds the errors.
    """

    segment: int
    t: float
    place: str
    scale: int
    noise_std: float
    expected_noise_std: float
    noise_error: float
    mean_error: float
    prior: float
    allowed: float
    designed: bool = False

    @property
    def right(self) -> bool:
        followed = self.noise_error <= self.allowed and self.mean_error <= self.allowed
        return followed and (self.designed or self.prior <= PRIOR_BOUND)


@dataclass(frozen=True)
class LawReport:
    """Every start, bridge and end of a composition."""

    rows: tuple[LawRow, ...]

    @property
    def worst(self) -> float:
        """The largest deviation at a start or a bridge."""
        return max(max(row.noise_error, row.mean_error) for row in self.rows if row.place != "end")

    def require(self) -> None:
        """Raises `LawError` naming the first segment and band whose law is wrong."""
        for row in (row for row in self.rows if not row.right):
            where = f"segment {row.segment}, t = {row.t:g}, scale {row.scale} ({row.place})"
            if row.place == "end":
                raise LawError(
                    f"the path does not end at the data: {where}",
                    got=f"noise std {row.noise_std:.6g}, deviation of the mean {row.mean_error:.3g}",
                    expected="the data itself",
                    remedy="use a path with alpha = 1, sigma = 0 at its end",
                )
            if row.prior > PRIOR_BOUND and not row.designed:
                raise LawError(
                    f"a scale enters from pure noise where its training law still holds data: {where}",
                    got=f"alpha / sigma = {row.prior:.4g}",
                    expected=f"at most {PRIOR_BOUND}",
                    remedy="use a path whose alpha starts near 0 at the scale's own start",
                )
            raise LawError(
                f"the sampler's law is not the training law: {where}",
                got=f"noise std {row.noise_std:.6g} per direction, deviation of the mean operator "
                f"{row.mean_error:.3g}",
                expected=f"noise std {row.expected_noise_std:.6g}, no deviation of the mean",
                remedy="the bridge must bring scale k in at sigma_k(its start) times its noise and leave "
                "the others as they are",
            )


def check_laws(flow: Flow, *, tolerance: float = 1e-9) -> LawReport:
    """Compare the sampler's law with the training law at every start, bridge and end of `flow`."""
    shape = flow.decomposition.smallest
    data = flow.decomposition.analyze(_random((1, *shape), "data"))
    rows: list[LawRow] = []
    for i, segment in enumerate(flow.segments):
        before = flow.segments[i - 1] if i else None
        # What the segment before leaves at its end, a bridge that takes it for clean cannot give back.
        allowed = max(tolerance, _left(flow, before)) if before and flow.bridge.designed else tolerance
        crossing = _Crossing(flow, before, segment)
        rows += crossing.rows(data, shape, "bridge" if i else "start", allowed)
    return LawReport((*rows, *_end(flow, tolerance)))


def _left(flow: Flow, segment: Segment) -> float:
    """How far from the data a segment ends: the noise and the missing mean where sampling leaves it."""
    found = [
        flow.path.coefficients(scalar_time(flow.solve_t_max(segment)), segment, k) for k in segment.scales
    ]
    return max(max(c.sigma.max().item(), (c.alpha - 1).abs().max().item()) for c in found)


def _end(flow: Flow, tolerance: float) -> list[LawRow]:
    """The last segment must end at the data, up to what the path leaves (VP ends short of t = 1)."""
    last, allowed, rows = flow.segments[-1], max(tolerance, 1.01 * flow.path.sigma_min), []
    for k in last.scales:
        c = flow.path.coefficients(scalar_time(flow.path.solve_t_max(last)), last, k)
        alpha, sigma = (c.alpha - 1).abs().max().item(), c.sigma.max().item()
        rows.append(LawRow(last.index, last.stop, "end", k, sigma, 0.0, sigma, alpha, 0.0, allowed))
    return rows


@dataclass(frozen=True)
class _Crossing:
    """The start of `segment`, or the bridge from `before`, as linear maps of (data, white) to bands."""

    flow: Flow
    before: Segment | None
    segment: Segment

    @property
    def entered(self) -> set[int]:
        """The scales that enter from noise alone."""
        if self.before is None or isinstance(self.flow.bridge, ConditionalBridge):
            return set(self.segment.scales)
        return set(self.segment.scales) - set(self.before.scales)

    def noise_draws(self, white: _White) -> list[State]:
        finest = self.flow.finest_noise_scales()
        return [
            self.flow.noise.from_white({j: w for (i, j), w in white.items() if i == p}, k)
            for p, k in enumerate(finest)
        ]

    def noise_of(self, segment: Segment, white: _White) -> State:
        noise = self.noise_draws(white)[self.flow.bridge.noise_index(segment)]
        return {k: noise[k] * segment.noise_scale for k in segment.scales}

    def trained(self, data: State, white: _White, segment: Segment, t: float) -> State:
        """The bands of a segment at time `t` in training."""
        own = {k: data[k] for k in segment.scales}
        return self.flow.interpolate(own, self.noise_of(segment, white), scalar_time(t), segment)[0]

    def sampled(self, data: State, white: _White) -> State:
        """The bands where sampling enters."""
        state: State = {}
        if self.before is not None:
            bands = self.trained(data, white, self.before, self.flow.solve_t_max(self.before))
            state = self.flow.to_image(bands, self.before)
        entered = self.flow.enter(self.segment.index, state, self.noise_draws(white))
        return self.flow.to_bands(entered, self.segment)

    def rows(self, data: State, shape: Shape, place: str, allowed: float) -> list[LawRow]:
        """The two laws' mean operators on `data`, their covariances on random vectors."""
        flow, segment = self.flow, self.segment
        shapes = flow.noise.white_shapes(shape)
        white = {
            (i, j): torch.zeros(1, *s, dtype=torch.float64, device="cpu")
            for i in range(len(flow.finest_noise_scales()))
            for j, s in shapes.items()
        }
        start = segment.sampling_start
        got_mean, want_mean = self.sampled(data, white), self.trained(data, white, segment, start)
        probe = {k: _random(want_mean[k].shape, k) for k in segment.scales}
        nothing = {k: torch.zeros_like(x) for k, x in data.items()}
        got = _covariance(lambda w: self.sampled(nothing, w), white, probe)
        want = _covariance(lambda w: self.trained(nothing, w, segment, start), white, probe)
        segment_noise = _covariance(lambda w: self.noise_of(segment, w), white, probe)
        found = []
        for k in segment.scales:
            # Along the probe, noise of unit path coefficient has variance p.C p, `noise_std` per direction.
            per_direction = flow.noise_std(k, segment) ** 2 / (probe[k] * segment_noise[k]).sum()
            std, want_std = (
                ((probe[k] * c[k]).sum() * per_direction).clamp(min=0).sqrt().item() for c in (got, want)
            )
            # A scale that has finished holds no noise: the segment's own then measures what is too much.
            size = want[k].norm() if want[k].any() else segment_noise[k].norm()
            noise_error = ((got[k] - want[k]).norm() / size).item()
            entered = k in self.entered
            c = flow.path.coefficients(scalar_time(start), segment, k)
            prior = (c.alpha / c.sigma).abs().max().item() if entered else 0.0
            difference = got_mean[k] if entered else got_mean[k] - want_mean[k]
            mean_error = (difference.norm() / data[k].norm()).item()
            designed = flow.bridge.designed and self.before is not None
            at = segment.index, start, place, k
            found.append(LawRow(*at, std, want_std, noise_error, mean_error, prior, allowed, designed))
        return found


def _covariance(law: Callable[[_White], State], white: _White, probe: State) -> State:
    """N (N^T v) for the linear operator N = `law` of white draws, v = `probe`; N^T by a backward pass."""
    with torch.enable_grad():
        inputs = {k: torch.zeros_like(w).requires_grad_() for k, w in white.items()}
        output = law(inputs)
        along = torch.stack([(probe[k] * output[k]).sum() for k in probe]).sum()
        back = torch.autograd.grad(along, list(inputs.values()), allow_unused=True)
    return law({k: torch.zeros_like(white[k]) if g is None else g for k, g in zip(white, back, strict=True)})


def _random(shape: Sequence[int], key: int | str) -> Tensor:
    return randn(shape, keyed_generator("laws", key), dtype=torch.float64, device="cpu")
