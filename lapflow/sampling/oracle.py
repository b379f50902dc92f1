"""The Gaussian oracle: on Gaussian data the optimal velocity is known, so the real sampler can be judged before training.

The optimum takes the network's place. The sampler is then an affine map of its white noise, so its mean and covariance
are computed exactly, by passing a basis through it: no Monte Carlo.

* `BandOracle`: x1_k = lam_k times the k-th band of a white image, plus a mean m_k. The optimum is one scalar per band,

      velocity = alpha' m + ((alpha alpha' d^2 + sigma sigma' g^2) / V)(x - alpha m),    V = alpha^2 d^2 + sigma^2 g^2,

  with d and g the stds of data and noise per orthonormal direction of the band's range; outside the range d = 0.
* `CorrelatedOracle`: any covariance of the data. The optimum of what scale k may see under a mask is linear,
  Cov(v_k, x_seen) Cov(x_seen)^+ x_seen. Only mask `none` has the exact joint velocity when bands are dependent; the
  deviation under `causal` and `self` is the price of the mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lapflow.core.attention import Mask, visible
from lapflow.core.flow import Flow
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients
from lapflow.core.random import keyed_generator, randn
from lapflow.core.solver import Field, Solver
from lapflow.core.state import State
from lapflow.plugins.registry import config_model
from lapflow.sampling.sampler import integrate

DEFAULT_STD = (0.3, 0.6, 1.2, 2.5)
"""Stds lam_k of the bands of the default Gaussian data, fine to coarse."""

END_WITH_DEAD_NOISE = 1 - 1e-8
"""Noise in a dead direction has velocity (sigma'/sigma) x, 0/0 at t = 1; integration then ends just before."""


@dataclass(frozen=True)
class BandResult:
    """One band of a sampler's output against the data's law.

    `std_error` = std / expected - 1, `mean_error` = mean / expected - 1 along the data's mean; `expected_*` are the errors
    that the prior alone makes (VP). `std_error` is taken over the band's range; `covariance_error` is the relative deviation of
    the band's whole covariance, dead directions included.
    """

    scale: int
    std_error: float
    expected_std_error: float
    mean_error: float
    expected_mean_error: float
    covariance_error: float


@dataclass(frozen=True)
class OracleReport:
    bands: tuple[BandResult, ...]
    evaluations: int

    @property
    def worst(self) -> float:
        """The largest deviation of a std or mean from its expectation."""
        return max(max(abs(b.std_error - b.expected_std_error), abs(b.mean_error - b.expected_mean_error)) for b in self.bands)


class BandOracle(Field):
    """The optimal velocity for Gaussian data that is independent between bands and white inside each band's range."""

    def __init__(
        self, flow: Flow, segment: Segment, shape: tuple[int, int, int], std: Mapping[int, float], mean: Mapping[int, Tensor]
    ) -> None:
        self.flow, self.segment, self.std, self.mean = flow, segment, std, mean
        self.bands = flow.bands(shape)

    def velocity(self, state: Mapping[int, Tensor], t: float) -> State:
        out = {}
        for k, x in state.items():
            c = self.flow.path.coefficients(torch.tensor(t, dtype=x.dtype, device=x.device), self.segment, k)
            band, noise = self.bands[k], self.flow.noise
            d, g, dead = self.std[k] * band.direction_std, noise.direction_std(band), noise.dead_std(band)
            centred = x - c.alpha * self.mean[k]
            if dead == 0:
                out[k] = c.dalpha * self.mean[k] + optimal_rate(c, d, g) * centred
            else:
                inside = self.flow.decomposition.project(centred, k)
                out[k] = c.dalpha * self.mean[k] + optimal_rate(c, d, g) * inside + optimal_rate(c, 0.0, dead) * (centred - inside)
        return out


def optimal_rate(c: Coefficients, d: float, g: float) -> Tensor:
    """(alpha alpha' d^2 + sigma sigma' g^2) / (alpha^2 d^2 + sigma^2 g^2): the optimum for data of std d, noise of std g."""
    return (c.alpha * c.dalpha * d**2 + c.variance_rate * g**2) / (c.alpha**2 * d**2 + c.sigma**2 * g**2)


def check_bands(flow: Flow, solver: Solver, *, std: tuple[float, ...] = DEFAULT_STD, side: int | None = None) -> OracleReport:
    """Run the sampler with `BandOracle` in the network's place and compare its output's law with the data's, per band.

    `std[min(k, len - 1)]` is lam_k. The image is one channel of `side` (default: the smallest that splits, at least 4).
    """
    shape = _shape(flow, side)
    lam = {k: std[min(k, len(std) - 1)] for k in range(flow.levels)}
    mean = flow.decomposition.analyze(randn((1, *shape), keyed_generator("oracle", "mean"), dtype=torch.float64, device="cpu"))
    basis, end = _noise_basis(flow, shape), _end(flow, shape)
    run = integrate(flow, lambda s: BandOracle(flow, s, shape, lam, mean), basis, solver, end=end)
    unit = flow.decomposition.analyze(torch.eye(shape[1] * shape[2], dtype=torch.float64).reshape(-1, *shape))
    rows = []
    for k, x in run.state.items():
        offset, columns = x[0].flatten(), (x[1:] - x[0]).flatten(1)
        got, want = columns.T @ columns, lam[k] ** 2 * unit[k].flatten(1).T @ unit[k].flatten(1)
        m = mean[k].flatten()
        inside = flow.decomposition.project(columns.reshape(-1, *x.shape[1:]), k)
        std_error = (inside.norm() / want.trace().sqrt()).item() - 1
        covariance_error = ((got - want).norm() / want.norm()).item()
        mean_error = ((offset @ m) / (m @ m)).item() - 1
        rows.append(BandResult(k, std_error, *_prior_error(flow, k, shape, lam, mean_error), covariance_error))
    return OracleReport(tuple(rows), run.evaluations)


def _prior_error(
    flow: Flow, scale: int, shape: tuple[int, int, int], lam: Mapping[int, float], mean_error: float
) -> tuple[float, float, float]:
    """(expected std error, mean error, expected mean error): entering at alpha_0, sigma_0 from noise alone multiplies the std by
    sigma_0 g / sqrt(V_0) and the mean by 1 - alpha_0 d / sqrt(V_0), V_0 = alpha_0^2 d^2 + sigma_0^2 g^2."""
    segment = next(s for s in flow.segments if scale in s.entry)
    band = flow.bands(shape)[scale]
    c = flow.path.coefficients(torch.tensor(segment.start, dtype=torch.float64), segment, scale)
    d, g = c.alpha.item() * lam[scale] * band.direction_std, c.sigma.item() * flow.noise.direction_std(band)
    root = (d**2 + g**2) ** 0.5
    return g / root - 1, mean_error, -d / root


def ladder(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings of a solver from cheap to dear: steps per segment of a fixed-step one, tolerances of an adaptive one.

    `spec` is `{name: ..., **arguments}`; a solver with neither knob gives no rungs.
    """
    known = config_model("solver", spec["name"]).model_fields
    if "steps" in known:
        return [{**spec, "steps": steps} for steps in (5, 10, 20, 40, 80)]
    if "rtol" in known and "atol" in known:
        return [{**spec, "rtol": tolerance, "atol": tolerance} for tolerance in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)]
    return []


class CorrelatedOracle(Field):
    """The optimal velocity for zero-mean Gaussian images of covariance `covariance` [n, n], as far as the mask lets a scale see."""

    def __init__(self, flow: Flow, segment: Segment, shape: tuple[int, int, int], covariance: Tensor, mask: Mask) -> None:
        self.flow, self.segment, self.mask = flow, segment, mask
        self.shapes = {k: flow.bands(shape)[k].shape for k in segment.scales}
        images = flow.decomposition.analyze(torch.eye(covariance.shape[0], dtype=torch.float64).reshape(-1, *shape))
        noise = _noise_basis(flow, shape)
        split = torch.cat([images[k].flatten(1) for k in segment.scales], dim=1)
        spread = torch.cat([noise[k][1:].flatten(1) for k in segment.scales], dim=1)
        self.data_covariance, self.noise_covariance = split.T @ covariance @ split, spread.T @ spread
        self.sizes = [images[k][0].numel() for k in segment.scales]

    def velocity(self, state: Mapping[int, Tensor], t: float) -> State:
        x = torch.cat([state[k].flatten(1) for k in self.segment.scales], dim=1)
        a, b, da, db = (self._diagonal(name, t) for name in ("alpha", "sigma", "dalpha", "dsigma"))
        joint = a[:, None] * self.data_covariance * a + b[:, None] * self.noise_covariance * b
        cross = da[:, None] * self.data_covariance * a + db[:, None] * self.noise_covariance * b
        v = torch.cat(
            [
                x[:, c:d] @ torch.linalg.pinv(joint[c:d, c:d], hermitian=True, rtol=1e-13) @ cross[q:r, c:d].T
                for q, r, c, d in visible(self.mask, self.sizes)
            ],
            dim=1,
        )
        return {k: part.reshape(-1, *self.shapes[k]) for k, part in zip(self.segment.scales, v.split(self.sizes, dim=1))}

    def _diagonal(self, name: str, t: float) -> Tensor:
        """A coefficient at `t`, repeated over every entry of its band."""
        time = torch.tensor(t, dtype=torch.float64)
        values = [getattr(self.flow.path.coefficients(time, self.segment, k), name) for k in self.segment.scales]
        return torch.cat([v.expand(n) for v, n in zip(values, self.sizes)])


@dataclass(frozen=True)
class MaskPrice:
    """Deviation of a sampler's joint law from the data's under a mask.

    `std_error` per scale; `cross_error` per pair (coarser, finer): |C - C*| / |C*| of the cross-covariance block;
    `covariance_error` the same of the whole covariance, and `solver_error` what of it mask `none` has too: the solver's part.
    """

    mask: Mask
    std_error: dict[int, float]
    cross_error: dict[tuple[int, int], float]
    covariance_error: float
    solver_error: float


def check_mask(flow: Flow, solver: Solver, mask: Mask, *, side: int = 8) -> MaskPrice:
    """Run the sampler on correlated Gaussian images (`natural_covariance`) with the best velocity that `mask` allows."""
    exact = None if mask == "none" else check_mask(flow, solver, "none", side=side)
    shape = _shape(flow, side)
    covariance = natural_covariance(shape[1])
    end = _end(flow, shape)
    run = integrate(flow, lambda s: CorrelatedOracle(flow, s, shape, covariance, mask), _noise_basis(flow, shape), solver, end=end)
    bands = flow.decomposition.analyze(torch.eye(covariance.shape[0], dtype=torch.float64).reshape(-1, *shape))
    got = {k: (x[1:] - x[0]).flatten(1) for k, x in run.state.items()}
    want = {k: torch.linalg.cholesky(covariance).T @ bands[k].flatten(1) for k in got}
    std = {k: (got[k].norm() / want[k].norm()).item() - 1 for k in got}
    pairs = [(i, j) for i in got for j in got if i > j]
    cross = {(i, j): _relative(got[i].T @ got[j], want[i].T @ want[j]) for i, j in pairs}
    whole = [torch.cat(list(m.values()), dim=1) for m in (got, want)]
    error = _relative(whole[0].T @ whole[0], whole[1].T @ whole[1])
    return MaskPrice(mask, std, cross, error, exact.covariance_error if exact else error)


def natural_covariance(side: int) -> Tensor:
    """Covariance [side^2, side^2] of a periodic stationary image whose power falls as 1 / |k|^2, as natural images' does.

    Frequencies k are whole numbers of periods; the mean's power is set to 1; the pixel variance is scaled to 1.
    """
    k = torch.fft.fftfreq(side, d=1 / side, dtype=torch.float64)
    squared = k[:, None] ** 2 + k[None, :] ** 2
    power = 1 / squared.clamp(min=1)
    correlation = torch.fft.ifft2(power).real
    correlation = correlation / correlation[0, 0]
    i = torch.arange(side)
    rows = (i[:, None] - i[None, :]) % side
    return correlation[rows[:, None, :, None], rows[None, :, None, :]].reshape(side**2, side**2)


def _relative(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def _shape(flow: Flow, side: int | None) -> tuple[int, int, int]:
    multiple = flow.decomposition.multiple
    size = max(multiple, 4) if side is None else max(side, multiple)
    return 1, size, size


def _noise_basis(flow: Flow, shape: tuple[int, int, int]) -> State:
    """Noise pyramids of a batch: zero, then each white draw in turn set to 1. A linear sampler maps them to its columns."""
    shapes = flow.noise.white_shapes(shape)
    sizes = {k: s[0] * s[1] * s[2] for k, s in shapes.items()}
    total, start, white = sum(sizes.values()), 0, {}
    for k, s in shapes.items():
        columns = torch.zeros(1 + total, sizes[k], dtype=torch.float64)
        columns[1 + start : 1 + start + sizes[k]] = torch.eye(sizes[k], dtype=torch.float64)
        white[k], start = columns.reshape(-1, *s), start + sizes[k]
    return flow.noise.from_white(white)


def _end(flow: Flow, shape: tuple[int, int, int]) -> float:
    return END_WITH_DEAD_NOISE if any(flow.noise.dead_std(band) for band in flow.bands(shape).values()) else 1.0
