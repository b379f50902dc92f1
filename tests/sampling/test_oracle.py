"""The Gaussian oracle through the real sampler: exact where it should be, and the figures of what is not."""

import pytest
import torch

from lapflow.flows import LinearPath
from lapflow.flows.compose import compose
from lapflow.pyramids import CumulativeIntervals, LaplacianPyramid
from lapflow.sampling.checking import check_bands, check_mask, natural_covariance
from lapflow.solvers import RK4, Euler, Heun
from lapflow.solvers.adaptive import Dopri5
from tests.core.test_laws import UnitNoise
from tests.support import DECOMPOSITIONS, STARTS, make_flow


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


def test_the_correlated_images_are_what_they_say():
    """Covariance of a stationary periodic field: its eigenvalues are its power spectrum."""
    covariance = natural_covariance(8)
    k = torch.fft.fftfreq(8, d=1 / 8, dtype=torch.float64)
    power = 1 / (k[:, None] ** 2 + k**2).clamp(min=1).flatten()
    expected = (power / power.mean()).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(covariance), expected)
    torch.testing.assert_close(covariance.diagonal(), torch.ones(64, dtype=torch.float64))
