"""The checks of `lapflow check`: the sampler's law on Gaussian data, an oracle in the network's place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lapflow.analysis.expectation import errors
from lapflow.analysis.oracle import BandOracle, Basis, MatrixOracle, Oracle, pixel_bands
from lapflow.core.attention import Mask
from lapflow.core.backbone import VARIANCE
from lapflow.core.condition import Condition
from lapflow.core.intervals import Segment
from lapflow.core.solver import Solver
from lapflow.core.state import Shape, State, map_state, take_rows
from lapflow.flows.flow import Flow
from lapflow.plugins.registry import config_model
from lapflow.sampling.sampler import Integration, integrate
from lapflow.util.random import keyed_generator, randn

DEFAULT_STD = (0.3, 0.6, 1.2, 2.5)
"""Stds lam_k of the bands of the default Gaussian data, fine to coarse."""

Make = Callable[[Basis, Segment, Condition], Oracle]


@dataclass(frozen=True)
class BandResult:
    """One band of a sampler's output against the data's law.

    `std_error` = std / expected - 1, `mean_error` = mean / expected - 1 along the data's mean; `expected_*`
    are the errors of an exact solver of the ODE (`expectation`): a prior that is not pure noise, a bridge
    that leaves a band out by design. `std_error` is taken over the band's range; `covariance_error` is the
    relative deviation of the band's whole covariance, dead directions included.
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
        return max(
            max(abs(b.std_error - b.expected_std_error), abs(b.mean_error - b.expected_mean_error))
            for b in self.bands
        )


def check_bands(
    flow: Flow, solver: Solver, *, std: tuple[float, ...] = DEFAULT_STD, side: int | None = None
) -> OracleReport:
    """Run the sampler with the oracle of band-diagonal Gaussian data and compare its output's law with the
    data's, per band. `std[min(k, len - 1)]` is lam_k. The sample has one channel and `side` pixels along each
    axis (default: as few as split, at least 4)."""
    shape = _shape(flow, side)
    lam = {k: std[min(k, len(std) - 1)] for k in range(flow.levels)}
    mean = flow.decomposition.analyze(
        randn((1, *shape), keyed_generator("oracle", "mean"), dtype=torch.float64, device="cpu")
    )
    identity = pixel_bands(flow, shape)
    run = _run(flow, shape, solver, _band_oracle(flow, lam, mean, identity))
    bands, rows = flow.bands(shape), []
    expected = errors(flow, bands, {k: lam[k] * bands[k].direction_std for k in bands}, mean)
    for k, x in flow.to_bands(run.state, flow.segments[-1]).items():
        offset, columns = x[0].flatten(), (x[1:] - x[0]).flatten(1)
        got, want = columns.T @ columns, lam[k] ** 2 * identity[k].flatten(1).T @ identity[k].flatten(1)
        m = mean[k].flatten()
        inside = flow.decomposition.project(columns.reshape(-1, *x.shape[1:]), k)
        std_error = (inside.norm() / want.trace().sqrt()).item() - 1
        mean_error = ((offset @ m) / (m @ m)).item() - 1
        error = _relative(got, want)
        rows.append(BandResult(k, std_error, expected[k][0], mean_error, expected[k][1], error))
    return OracleReport(tuple(rows), run.evaluations)


def unstated(solver: Solver) -> list[str]:
    """The heads that a solver needs and no oracle states: it cannot be tried in a network's place."""
    return [name for name in solver.heads if name != VARIANCE]


def _band_oracle(flow: Flow, lam: Mapping[int, float], mean: State, identity: State) -> Make:
    if flow.noise.white:
        return lambda basis, segment, condition: BandOracle(flow, segment, basis, lam, mean, condition)
    # Coloured noise mixes the bands: the optimum is a matrix. The pixels' covariance whose bands have the
    # stds lam_k:
    nothing, covariances = map_state(torch.zeros_like, identity), []
    for k, x in identity.items():
        part = flow.decomposition.synthesize({**nothing, k: x}).flatten(1)
        covariances.append(lam[k] ** 2 * part.T @ part)
    covariance = torch.stack(covariances).sum(0)
    return lambda basis, segment, condition: MatrixOracle(flow, segment, basis, covariance, mean)


def _run(flow: Flow, shape: Shape, solver: Solver, make: Make) -> Integration:
    """The sampler on a basis of its noise. A first run, on one sample, counts a solver's fresh draws."""
    counting = Basis(flow, shape)
    first = [take_rows(pyramid, slice(1)) for pyramid in counting.noise_draws()]
    integrate(flow, functools.partial(make, counting), first, solver)
    basis = Basis(flow, shape, counting.asked)
    run = integrate(flow, functools.partial(make, basis), basis.noise_draws(), solver)
    assert basis.asked == counting.asked, "a solver draws as often for a batch as for one sample"
    return run


def ladder(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings of a solver `{name: ..., **arguments}` from cheap to dear: steps per segment of a fixed-step
    one, tolerances of an adaptive one; none of a solver with neither."""
    known = config_model("solver", spec["name"]).model_fields
    if "steps" in known:
        return [{**spec, "steps": steps} for steps in (5, 10, 20, 40, 80)]
    if "rtol" in known and "atol" in known:
        return [{**spec, "rtol": bound, "atol": bound} for bound in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)]
    return []


@dataclass(frozen=True)
class MaskPrice:
    """Deviation of a sampler's joint law from the data's under a mask.

    `std_error` per scale; `cross_error` per pair (coarser, finer): |C - C*| / |C*| of the cross-covariance
    block, or over the root of the two bands' own |C*| where C* vanishes by symmetry;
    `covariance_error` the same of the whole covariance, and `solver_error` what of it mask `none` has too:
    the solver's part. The samples have `sizes`.
    """

    mask: Mask
    sizes: tuple[int, ...]
    std_error: dict[int, float]
    cross_error: dict[tuple[int, int], float]
    covariance_error: float
    solver_error: float


def check_mask(flow: Flow, solver: Solver, mask: Mask, *, side: int | None = None) -> MaskPrice:
    """Run the sampler on correlated Gaussian samples (`natural_covariance`) with the best velocity that
    `mask` allows. `side` as in `check_bands`, by default at least 8, and 4 along the first of three axes."""
    exact = None if mask == "none" else check_mask(flow, solver, "none", side=side)
    shape = _shape(flow, side, (4, 8, 8))
    covariance = natural_covariance(shape[1:])
    run = _run(flow, shape, solver, lambda basis, s, _: MatrixOracle(flow, s, basis, covariance, None, mask))
    bands = pixel_bands(flow, shape)
    final = flow.to_bands(run.state, flow.segments[-1])
    got = {k: (x[1:] - x[0]).flatten(1) for k, x in final.items()}
    want = {k: torch.linalg.cholesky(covariance).T @ bands[k].flatten(1) for k in got}
    std = {k: (got[k].norm() / want[k].norm()).item() - 1 for k in got}
    pairs = [(i, j) for i in got for j in got if i > j]
    cross = {(i, j): _cross_error(got, want, i, j) for i, j in pairs}
    whole = [torch.cat(list(m.values()), dim=1) for m in (got, want)]
    error = _relative(whole[0].T @ whole[0], whole[1].T @ whole[1])
    return MaskPrice(mask, shape[1:], std, cross, error, exact.covariance_error if exact else error)


def _cross_error(got: Mapping[int, Tensor], want: Mapping[int, Tensor], i: int, j: int) -> float:
    found, true = got[i].T @ got[j], want[i].T @ want[j]
    own = ((want[i].T @ want[i]).norm() * (want[j].T @ want[j]).norm()).sqrt()
    return ((found - true).norm() / (true.norm() if true.norm() > 1e-9 * own else own)).item()


def natural_covariance(sizes: Sequence[int]) -> Tensor:
    """Covariance [n, n] of the n pixels of a periodic stationary sample of `sizes` whose power falls as 1 /
    |k|^2, as natural images' does: frequencies k are whole numbers of periods, the mean's power is 1, the
    pixel variance 1."""
    squares = [torch.fft.fftfreq(size, d=1 / size, dtype=torch.float64) ** 2 for size in sizes]
    power = 1 / torch.stack(torch.meshgrid(squares, indexing="ij")).sum(0).clamp(min=1)
    correlation = torch.fft.ifftn(power).real
    correlation = correlation / correlation.flatten()[0]
    places = torch.cartesian_prod(*(torch.arange(size) for size in sizes)).reshape(-1, len(sizes))
    shifts = (places[:, None] - places) % torch.tensor(sizes)
    return correlation[shifts.unbind(-1)]


def _relative(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


def _shape(flow: Flow, side: int | None, least: tuple[int, int, int] = (4, 4, 4)) -> Shape:
    multiples = flow.decomposition.multiple()
    sizes = least[-len(multiples) :] if side is None else (side,) * len(multiples)
    return 1, *map(max, multiples, sizes)
