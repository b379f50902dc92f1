"""Training pairs: by the formulas of the paper, and bit for bit single-scale flow matching at K = 1."""

from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lapflow.core.condition import Specs
from lapflow.core.errors import ConfigError
from lapflow.flows import AppendBridge, LinearPath
from lapflow.flows.compose import compose
from lapflow.objectives import MSE
from lapflow.plugins import create
from lapflow.pyramids import LaplacianPyramid
from lapflow.sampling import sample
from lapflow.schedules import CumulativeIntervals
from lapflow.solvers import Euler
from lapflow.util.random import keyed_generator, randn
from tests.support import images, make_flow, seeded, single_scale


class Tiny(nn.Module):
    """A network small enough to write out: v = w x + t, per scale."""

    mask = "none"
    condition: ClassVar[Specs] = {}

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, state, t, condition=None):
        return {"main": {k: self.weight * x + t[:, None, None, None] for k, x in state.items()}}


@given(seed=st.integers(0, 1000))
def test_training_pairs_are_the_papers(seed):
    """K = 2, linear: x_k = (t - T_k)/(1 - T_k) x1_k + (1 - t) x0_k, u_k = x1_k / (1 - T_k) - x0_k."""
    flow, x = make_flow(2), images(3, 2, 4, 4)
    point = flow.training_point(x, seeded(seed))
    starts = {1: 0.0, 0: 0.5}
    data = flow.decomposition.analyze(x)
    for k in point.segment.scales:
        start, t = starts[k], point.t[:, None, None, None]
        torch.testing.assert_close(
            point.state[k], (t - start) / (1 - start) * data[k] + (1 - t) * point.noise[k]
        )
        torch.testing.assert_close(point.target[k], data[k] / (1 - start) - point.noise[k])
    assert point.segment.scales in ((1,), (1, 0))


def test_decomposed_noise_is_one_white_image_and_the_reconstruction_says_so():
    """sigma = 1 - t for all scales: the reconstruction at t is sum_k alpha_k U^k x1_k + (1 - t) eps with one
    white eps."""
    flow, x = make_flow(3), images(2, 1, 8, 8)
    data, noise = (
        flow.decomposition.analyze(x),
        flow.noise.draw((1, 8, 8), 2, seeded(), dtype=torch.float64, device="cpu"),
    )
    eps = randn((2, 1, 8, 8), seeded(), dtype=torch.float64, device="cpu")
    t = torch.tensor(0.8, dtype=torch.float64)
    state, _ = flow.interpolate(data, noise, t, flow.segments[-1])
    alpha = {2: 0.8, 1: (0.8 - 0.33) / 0.67, 0: (0.8 - 0.67) / 0.33}
    mean = flow.decomposition.synthesize({k: alpha[k] * data[k] for k in data})
    torch.testing.assert_close(flow.decomposition.synthesize(state), mean + 0.2 * eps)


def test_k1_is_single_scale_flow_matching_bit_for_bit():
    x = images(4, 3, 8, 8, dtype=torch.float32)
    one = compose(LaplacianPyramid(levels=1), CumulativeIntervals(starts=[0.0]), LinearPath(), AppendBridge())
    model = Tiny()
    # flow matching, written out: the same draws in the same order
    g = seeded(7)
    torch.randint(1, (1,), generator=g)
    t, noise = torch.rand(4, generator=g), torch.randn(4, 3, 8, 8, generator=g)
    xt = t[:, None, None, None] * x + (1 - t[:, None, None, None]) * noise
    plain = (model({0: xt}, t)["main"][0] - (x - noise)).square().mean()
    for flow in (one, single_scale()):
        point = flow.training_point(x, seeded(7))
        assert torch.equal(sum(MSE()(model, point).values()), plain)
    # sampling, written out: Euler from the same noise
    state = torch.randn(4, 3, 8, 8, generator=seeded(8))
    for i in range(10):
        time = torch.full((4,), i / 10)
        state = torch.add(state, model({0: state}, time)["main"][0].detach(), alpha=(i + 1) / 10 - i / 10)
    for flow in (one, single_scale()):
        assert torch.equal(
            sample(flow, model, (4, 3, 8, 8), solver=Euler(steps=10), generator=seeded(8)), state
        )


def test_per_sample_draws_weigh_every_sample_alike():
    flow, x = make_flow(3, segment_sampling="sample"), images(16, 1, 8, 8)
    points = flow.training_points(x, [keyed_generator("s", i) for i in range(16)])
    assert sum(p.fraction for p in points) == pytest.approx(1)
    assert sorted(torch.cat([p.index for p in points]).tolist()) == list(range(16))
    for p in points:
        assert all(torch.equal(p.data[k], flow.decomposition.analyze(x)[k][p.index]) for k in p.state)
    with pytest.raises(ConfigError, match="several segments"):
        flow.training_point(x, seeded())


def test_a_sample_depends_on_its_own_generator_only():
    flow = make_flow(2, segment_sampling="sample")
    x = images(6, 1, 4, 4)
    whole = flow.training_points(x, [keyed_generator(i) for i in range(6)])
    alone = flow.training_points(x[4:5], [keyed_generator(4)])[0]
    for p in whole:
        row = (p.index == 4).nonzero().flatten()
        if len(row):
            assert torch.equal(p.t[row], alone.t)
            assert all(torch.equal(p.state[k][row], alone.state[k]) for k in alone.state)
            return
    raise AssertionError("sample 4 is in no training pair")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_training_pairs_keep_the_images_dtype(dtype):
    point = make_flow(2).training_point(images(2, 1, 4, 4).to(dtype), seeded())
    assert all(x.dtype == dtype for x in (*point.state.values(), *point.target.values()))


def test_unknown_noise_and_wrong_number_of_generators_are_refused():
    with pytest.raises(ConfigError, match="decomposed"):
        create("noise", "decomposd")
    with pytest.raises(ConfigError, match="one per sample"):
        make_flow(2).training_point(images(3, 1, 4, 4), [seeded(), seeded()])


def test_weights_and_fraction_reach_the_loss():
    intervals = CumulativeIntervals(starts=[0.0, 0.5], weights=[2.0, 3.0])
    flow = compose(LaplacianPyramid(levels=2), intervals, LinearPath(), AppendBridge())
    point = next(
        p
        for seed in range(20)
        if len((p := flow.training_point(images(2, 1, 4, 4), seeded(seed))).state) == 2
    )
    zero = {"main": {k: torch.zeros_like(x) for k, x in point.target.items()}}
    expected = sum(w * point.target[k].float().square().mean() for k, w in ((1, 2.0), (0, 3.0)))
    torch.testing.assert_close(sum(MSE()(lambda *given: zero, point).values()), expected)
