"""The Gaussian oracle through the real sampler: exact where it should be, and the figures of what is not."""

import math

import pytest
import torch

from lapflow.analysis.checking import check_bands, check_mask, natural_covariance
from lapflow.flows import AppendBridge, GVPPath, LinearPath, PyramidalPath, TransitionBridge
from lapflow.flows.compose import compose
from lapflow.pyramids import LaplacianPyramid, WaveletPyramid
from lapflow.schedules import CumulativeIntervals, Stages
from lapflow.solvers import RK4, AdamsBashforth2, Euler, Heun
from lapflow.solvers.adaptive import Dopri5
from tests.core.test_laws import UnitNoise
from tests.support import AXES, DECOMPOSITIONS, STARTS, make_flow


@pytest.mark.parametrize("noise", ["decomposed", "independent"])
@pytest.mark.parametrize("path", ["linear", "gvp"])
@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
@pytest.mark.parametrize("levels", STARTS)
def test_the_sampler_returns_the_datas_law(levels, decomposition, path, noise):
    report = check_bands(make_flow(levels, decomposition, path, noise), RK4(steps=200))
    assert report.worst <= (1e-6 if noise == "decomposed" else 1e-5)
    assert max(band.covariance_error for band in report.bands) <= (1e-6 if noise == "decomposed" else 1e-5)
    assert all(band.expected_mean_error == 0 for band in report.bands)
    assert report.evaluations == 800 * levels


@pytest.mark.parametrize("levels", STARTS)
def test_vp_has_the_prior_error_that_the_formula_gives(levels):
    report = check_bands(make_flow(levels, path="vp"), RK4(steps=200))
    assert report.worst <= 1e-4
    assert max(abs(band.expected_mean_error) for band in report.bands) > 1e-3, (
        "the prior error is there, and larger than the tolerance"
    )
    assert max(abs(band.mean_error) for band in report.bands) > 1e-3


@pytest.mark.parametrize(
    ("solver", "fine", "tolerance"),
    [
        (Euler(steps=10), -0.130, 5e-4),
        (Euler(steps=20), -0.067, 5e-4),
        (Euler(steps=40), -0.034, 5e-4),
        (Heun(steps=20), 0.0006, 1e-4),
    ],
)
def test_what_real_step_counts_cost(solver, fine, tolerance):
    """K = 2: Euler with 20, 40, 80 calls -13, -6.7, -3.4 %, Heun with 80 +.06 %."""
    band = check_bands(make_flow(2), solver).bands[-1]
    assert (band.scale, band.std_error) == (0, pytest.approx(fine, abs=tolerance))


@pytest.mark.parametrize(("levels", "mask"), [(2, "causal"), (2, "none"), (3, "self")])
def test_a_multistep_solver_converges_at_its_order_across_entries(levels, mask):
    """Whether the history is kept where a scale enters (causal, self) or is void (none); kept, the coarsest
    band's error is that of one start."""
    flow, first, errors = make_flow(levels), 20, {}
    for solver in (AdamsBashforth2, RestartedAB2):
        errors[solver] = [
            abs(check_mask(flow, solver(steps=n), mask).std_error[levels - 1]) for n in (first, 2 * first)
        ]
        assert math.log2(errors[solver][0] / errors[solver][1]) == pytest.approx(2, abs=0.15)
    if mask == "none":
        assert errors[AdamsBashforth2] == errors[RestartedAB2]
    else:
        assert errors[AdamsBashforth2][1] < 0.5 * errors[RestartedAB2][1]


class RestartedAB2(AdamsBashforth2):
    def solve(self, field, state, segment, generator=None, observe=None, history=None):
        return super().solve(field, state, segment, generator, observe)


def test_an_adaptive_solver_is_near_at_few_evaluations():
    report = check_bands(make_flow(2), Dopri5())
    assert report.worst < 1e-3
    assert report.evaluations < 100


def test_unit_noise_doubles_the_fine_band():
    flow = compose(
        LaplacianPyramid(levels=2),
        CumulativeIntervals(starts=[0, 0.5]),
        LinearPath(),
        UnitNoise(),
        check=False,
    )
    coarse, fine = check_bands(flow, RK4(steps=100)).bands
    assert fine.std_error == pytest.approx(1.0, abs=1e-6)
    assert abs(coarse.std_error) < 1e-6


def test_mask_none_returns_the_whole_covariance():
    for path in ("linear", "gvp"):
        price = check_mask(make_flow(2, path=path), RK4(steps=50), "none")
        assert price.covariance_error < 1e-6
        assert price.cross_error[1, 0] < 1e-6


def test_the_price_of_the_masks():
    """8x8 field of power 1/k^2, K = 2, T = .5: causal -0.3 % of the fine std, 5.7 % of the cross-covariance;
    self all of it."""
    causal = check_mask(make_flow(2), RK4(steps=50), "causal")
    assert abs(causal.std_error[1]) < 1e-6, "the coarse marginal is exact"
    assert causal.std_error[0] == pytest.approx(-0.003, abs=5e-4)
    assert causal.cross_error[1, 0] == pytest.approx(0.057, abs=1e-3)
    alone = check_mask(make_flow(2), RK4(steps=50), "self")
    assert max(map(abs, alone.std_error.values())) < 1e-6, "every band's variance"
    assert alone.cross_error[1, 0] == pytest.approx(1, abs=1e-6)


def test_mask_none_is_exact_for_three_scales_too():
    """Some cross-covariances vanish by symmetry there: their error is over the bands' own size."""
    price = check_mask(make_flow(3), RK4(steps=50), "none")
    assert max(price.cross_error.values()) < 1e-6
    assert max(check_mask(make_flow(3), RK4(steps=50), "causal").cross_error.values()) < 0.5


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_the_law_comes_out_with_one_two_and_three_axes(axes):
    parts = LaplacianPyramid(levels=3, axes=axes), CumulativeIntervals(starts=STARTS[3])
    for path in (LinearPath(), GVPPath()):
        assert check_bands(compose(*parts, path, AppendBridge()), RK4(steps=20)).worst <= 1e-6
    waves = WaveletPyramid(levels=3, axes=axes, wavelet="db2"), CumulativeIntervals(starts=STARTS[3])
    assert check_bands(compose(*waves, LinearPath(), AppendBridge()), RK4(steps=20)).worst <= 1e-6
    stages = parts[0], Stages(windows="pyramidal"), PyramidalPath(), TransitionBridge()
    assert check_bands(compose(*stages, representation="merged"), RK4(steps=20)).worst <= 1e-6


@pytest.mark.parametrize("axes", [1, [False, True, True]], ids=str)
def test_the_price_of_a_mask_with_other_numbers_of_axes(axes):
    parts = LaplacianPyramid(axes=axes), CumulativeIntervals(starts=STARTS[2]), LinearPath(), AppendBridge()
    price = check_mask(compose(*parts), RK4(steps=8), "causal")
    assert price.sizes == ((8,) if axes == 1 else (4, 8, 8))
    assert price.solver_error < 1e-4 < price.covariance_error
    assert abs(price.std_error[1]) < 1e-4


@pytest.mark.parametrize("sizes", [(8,), (8, 8), (4, 2, 6)])
def test_the_correlated_samples_are_what_they_say(sizes):
    """Covariance of a stationary periodic field: its eigenvalues are its power spectrum."""
    covariance = natural_covariance(sizes)
    squares = [torch.fft.fftfreq(size, d=1 / size, dtype=torch.float64) ** 2 for size in sizes]
    power = 1 / torch.cartesian_prod(*squares).reshape(-1, len(sizes)).sum(1).clamp(min=1)
    expected = (power / power.mean()).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(covariance), expected)
    torch.testing.assert_close(covariance.diagonal(), torch.ones(len(covariance), dtype=torch.float64))
