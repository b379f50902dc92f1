"""The law check: does the sampler's state follow the law that training assumes?

Training pairs at time t have the law x_k = alpha_k(t) x1_k + sigma_k(t) x0_k. The sampler's state must have this law at
the start of the first segment, after each bridge, and be the data itself at the end. Starts, bridges and paths are
linear maps of (data, white noise), so two laws are equal for every data distribution when their mean operators are
equal and their noise covariances N N^T are. Both are compared as operators in float64, by applying them to random
vectors of the bands (two different linear operators agree on a random vector with probability 0), on a small image.

Where a scale enters from noise alone while alpha > 0 (VP), the composition has a *prior error*: it is reported as
alpha / sigma and not counted as a mistake while it is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lapflow.core.errors import LawError
from lapflow.core.intervals import Segment
from lapflow.core.random import keyed_generator, randn
from lapflow.core.state import State

if TYPE_CHECKING:
    from lapflow.core.flow import Flow

PRIOR_BOUND = 0.1
"""The largest alpha / sigma at which a scale may enter from pure noise."""


@dataclass(frozen=True)
class LawRow:
    """One band at one place of the clock: the sampler's law beside the training law.

    `place` is `start`, `bridge` or `end`. Noise stds are per direction that the band's noise excites; `noise_error` and
    `mean_error` are relative deviations of the covariance and of the mean operator. `prior` is alpha / sigma where the
    scale enters from noise alone, else 0; `mean_error` does not count it. `allowed` bounds the errors.
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

    @property
    def right(self) -> bool:
        return self.noise_error <= self.allowed and self.mean_error <= self.allowed and self.prior <= PRIOR_BOUND


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
            if row.prior > PRIOR_BOUND:
                raise LawError(
                    f"a scale enters from pure noise where its training law still holds data: {where}",
                    got=f"alpha / sigma = {row.prior:.4g}",
                    expected=f"at most {PRIOR_BOUND}",
                    remedy="use a path whose alpha starts near 0 at the scale's own start",
                )
            raise LawError(
                f"the sampler's law is not the training law: {where}",
                got=f"noise std {row.noise_std:.6g} per direction, deviation of the mean operator {row.mean_error:.3g}",
                expected=f"noise std {row.expected_noise_std:.6g}, no deviation of the mean",
                remedy="the bridge must bring scale k in at sigma_k(its start) times its noise and leave the others as they are",
            )


def check_laws(flow: Flow, *, tolerance: float = 1e-9) -> LawReport:
    """Compare the sampler's law with the training law at every start, bridge and end of `flow`."""
    shape = (1, flow.decomposition.multiple, flow.decomposition.multiple)
    data = flow.decomposition.analyze(_random((1, *shape), "data"))
    rows: list[LawRow] = []
    for i, segment in enumerate(flow.segments):
        before = flow.segments[i - 1] if i else None

        def sampled(d: State, w: State, i: int = i, before: Segment | None = before) -> State:
            noise = flow.noise.from_white(w)
            end = {} if before is None else flow.interpolate(d, noise, _time(before.stop), before)[0]
            return flow.enter(i, end, noise)

        def trained(d: State, w: State, segment: Segment = segment) -> State:
            return flow.interpolate(d, flow.noise.from_white(w), _time(segment.start), segment)[0]

        entered = set(segment.scales) - set(before.scales if before else ())
        rows += _compare(flow, sampled, trained, data, shape, segment, "bridge" if i else "start", entered, tolerance)
    return LawReport((*rows, *_end(flow, tolerance)))


def _end(flow: Flow, tolerance: float) -> list[LawRow]:
    """The last segment must end at the data. A path whose `end` is short of t = 1 may leave the square root of the time it
    leaves out, as VP does."""
    last, allowed = flow.segments[-1], max(tolerance, (1 - flow.path.end) ** 0.5)
    rows = []
    for k in last.scales:
        c = flow.path.coefficients(_time(min(last.stop, flow.path.end)), last, k)
        alpha, sigma = c.alpha.item(), c.sigma.item()
        rows.append(LawRow(last.index, last.stop, "end", k, sigma, 0.0, sigma, abs(alpha - 1), 0.0, allowed))
    return rows


def _compare(
    flow: Flow,
    sampled: Callable[[State, State], State],
    trained: Callable[[State, State], State],
    data: State,
    shape: tuple[int, int, int],
    segment: Segment,
    place: str,
    entered: set[int],
    tolerance: float,
) -> list[LawRow]:
    """Rows for one start or bridge: the two laws' mean operators on `data`, their covariances on random vectors."""
    white = {k: torch.zeros(1, *s, dtype=torch.float64, device="cpu") for k, s in flow.noise.white_shapes(shape).items()}
    got_mean, want_mean = sampled(data, white), trained(data, white)
    probe = {k: _random(want_mean[k].shape, k) for k in segment.scales}
    got, want, unit = (
        _covariance(law, white, probe)
        for law in (lambda w: sampled(_zeros(data), w), lambda w: trained(_zeros(data), w), flow.noise.from_white)
    )
    bands = flow.bands(shape)
    rows = []
    for k in segment.scales:
        # Along the probe, noise of unit path coefficient has the variance p.C p, and `direction_std` per direction.
        per_direction = flow.noise.direction_std(bands[k]) ** 2 / (probe[k] * unit[k]).sum()
        std, want_std = (((probe[k] * c[k]).sum() * per_direction).clamp(min=0).sqrt().item() for c in (got, want))
        noise_error = ((got[k] - want[k]).norm() / want[k].norm()).item()
        c = flow.path.coefficients(_time(segment.start), segment, k)
        prior = abs((c.alpha / c.sigma).item()) if k in entered else 0.0
        difference = got_mean[k] if k in entered else got_mean[k] - want_mean[k]
        mean_error = (difference.norm() / data[k].norm()).item()
        rows.append(LawRow(segment.index, segment.start, place, k, std, want_std, noise_error, mean_error, prior, tolerance))
    return rows


def _covariance(law: Callable[[State], State], white: State, probe: State) -> State:
    """N (N^T v) for the linear operator N = `law` of white draws, and the vector v = `probe`; N^T by reverse differentiation."""
    with torch.enable_grad():
        inputs = {k: torch.zeros_like(w).requires_grad_() for k, w in white.items()}
        output = law(inputs)
        along = torch.stack([(probe[k] * output[k]).sum() for k in probe]).sum()
        back = torch.autograd.grad(along, list(inputs.values()), allow_unused=True)
    return law({k: torch.zeros_like(white[k]) if g is None else g for k, g in zip(white, back, strict=True)})


def _zeros(state: State) -> State:
    return {k: torch.zeros_like(x) for k, x in state.items()}


def _random(shape: Sequence[int], key: int | str) -> Tensor:
    return randn(shape, keyed_generator("laws", key), dtype=torch.float64, device="cpu")


def _time(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64, device="cpu")
