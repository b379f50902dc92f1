"""Paths: velocity is the derivative of the position, conversions round-trip, the figures of the
literature."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import PATHS, STARTS, images, make_flow

NAMES = st.sampled_from(list(PATHS))


@given(name=NAMES, levels=st.integers(1, 4), u=st.floats(0.001, 0.999), data=st.data())
def test_velocity_is_the_time_derivative_of_the_position(name, levels, u, data):
    flow = make_flow(levels, path=name)
    segment = data.draw(st.sampled_from(flow.segments))
    for k in segment.scales:
        t = torch.tensor(
            segment.scale_starts[k] + (flow.path.u_max - segment.scale_starts[k]) * u,
            dtype=torch.float64,
            requires_grad=True,
        )
        c = flow.path.coefficients(t, segment, k)
        (dalpha,) = torch.autograd.grad(c.alpha, t, retain_graph=True)
        (dsigma,) = torch.autograd.grad(c.sigma, t, retain_graph=True)
        torch.testing.assert_close(c.dalpha, dalpha, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(c.dsigma, dsigma, rtol=1e-9, atol=1e-12)


@given(name=NAMES, u=st.floats(0.05, 0.95))
def test_predictions_convert_into_each_other(name, u):
    flow = make_flow(2, path=name)
    segment, k, g = flow.segments[1], 0, 0.5
    t = torch.tensor(0.5 + 0.5 * u, dtype=torch.float64)
    data, noise = images(2, 1, 4, 4, seed=1), images(2, 1, 4, 4, seed=2)
    c = flow.path.coefficients(t, segment, k).expand(data)
    x = c.position(data, noise)
    for found in (
        c.endpoints_from_velocity(x, c.velocity(data, noise)),
        c.endpoints_from_denoised(x, data),
        c.endpoints_from_noise(x, noise),
        c.endpoints_from_score(x, c.score(noise, g), g),
    ):
        torch.testing.assert_close(found[0], data, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(found[1], noise, rtol=1e-7, atol=1e-7)


def test_score_is_the_gradient_of_the_conditional_log_density():
    flow = make_flow(1)
    c = flow.path.coefficients(torch.tensor(0.3, dtype=torch.float64), flow.segments[0], 0)
    data, noise, g = images(1, 1, 2, 2, seed=1), images(1, 1, 2, 2, seed=2) * 0.7, 0.7
    x = c.position(data, noise).requires_grad_()
    log_density = -((x - c.alpha * data) ** 2).sum() / (2 * c.sigma**2 * g**2)
    (gradient,) = torch.autograd.grad(log_density, x)
    torch.testing.assert_close(c.score(noise, g), gradient)


@pytest.mark.parametrize("levels", STARTS)
@pytest.mark.parametrize("name", PATHS)
def test_paths_end_at_the_data(name, levels):
    flow = make_flow(levels, path=name)
    last = flow.segments[-1]
    for k in last.scales:
        c = flow.path.coefficients(torch.tensor(flow.path.u_max, dtype=torch.float64), last, k)
        # VP stops 1e-5 short of t = 1, where it leaves noise of std 1e-3.
        assert abs(c.alpha.item() - 1) <= (1e-5 if name == "vp" else 0)
        assert c.sigma.item() <= (1.1e-3 if name == "vp" else 0)


@pytest.mark.parametrize(("name", "expected"), [("linear", 0.5), ("gvp", math.cos(math.pi / 4))])
def test_a_scale_enters_at_the_noise_level_of_its_own_start(name, expected):
    """At its own start the scale is b(T) x0: (1 - T) for linear, cos(pi T / 2) for GVP; not unit noise."""
    flow = make_flow(2, path=name)
    noise = flow.noise.draw((1, 4, 4), 2, torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu")
    state = flow.enter(1, {1: noise[1] * 0}, [noise])
    torch.testing.assert_close(state[0], expected * noise[0])


def test_vp_constants_are_sits():
    flow = make_flow(1, path="vp")
    start = flow.path.coefficients(torch.tensor(0.0, dtype=torch.float64), flow.segments[0], 0)
    assert start.alpha.item() == pytest.approx(math.exp(-19.9 / 4 - 0.05), rel=1e-12)
    assert start.alpha.item() == pytest.approx(0.0066, abs=5e-5)
    assert (start.alpha**2 + start.sigma**2).item() == pytest.approx(1, abs=1e-15)
