"""The systems are one family: identities between them, in float64, for the same data and the same noise."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lapflow.core.noise import BlurredNoise
from lapflow.core.path import posterior_variance
from lapflow.core.prediction import EDMPrediction, NoisePrediction
from lapflow.core.state import scalar_time
from lapflow.core.time_law import Uniform
from lapflow.flows import (
    AppendBridge,
    DiscreteVPPath,
    EdifyPath,
    EDMPath,
    LinearPath,
    PyramidalPath,
    RelayPath,
    RenoiseBridge,
    TransitionBridge,
    VPPath,
)
from lapflow.flows.compose import compose
from lapflow.pyramids import BlockDCT, Identity, LaplacianPyramid
from lapflow.pyramids.laplacian import downsample, upsample
from lapflow.schedules import CumulativeIntervals, Stages
from tests.support import images, seeded

EXACT = {"rtol": 0, "atol": 1e-12}


def lapflow(starts):
    return compose(
        LaplacianPyramid(levels=len(starts)), CumulativeIntervals(starts=starts), LinearPath(), AppendBridge()
    )


def pyramidal(stages):
    decomposition, intervals = LaplacianPyramid(levels=stages), Stages(windows="pyramidal")
    return compose(decomposition, intervals, PyramidalPath(), TransitionBridge(), representation="merged")


def edify(starts, path=None):
    decomposition, intervals = (
        LaplacianPyramid(levels=len(starts)),
        Stages(windows="continuous", starts=starts),
    )
    return compose(
        decomposition,
        intervals,
        path or EdifyPath(),
        TransitionBridge(),
        representation="merged",
        prediction=EDMPrediction(),
    )


def bands_of(flow, eps, segment):
    """The noise bands of a white image, in a segment's unit."""
    return {
        k: x * segment.noise_scale for k, x in flow.decomposition.analyze(eps).items() if k in segment.scales
    }


def merged(flow, x, eps, t, segment):
    """The image and its velocity at time t."""
    data = {k: b for k, b in flow.decomposition.analyze(x).items() if k in segment.scales}
    state, velocity = flow.interpolate(data, bands_of(flow, eps, segment), scalar_time(t), segment)
    return flow.decomposition.synthesize(state, segment.finest), flow.decomposition.synthesize(
        velocity, segment.finest
    )


@given(r=st.floats(0, 1), seed=st.integers(0, 100))
def test_lapflow_of_two_scales_is_pyramidal_flow_in_the_fine_stage(r, seed):
    """s = T = 1/3 is Pyramidal's window for two stages: the same path in t = T + (1 - T) r, and dx/dr = (1 -
    T) dx/dt."""
    one, other = lapflow([0.0, 1 / 3]), pyramidal(2)
    x, eps = images(2, 1, 4, 4, seed=seed), images(2, 1, 4, 4, seed=seed + 1)
    stage = other.segments[1]
    assert stage.window == (pytest.approx(1 / 3), 1.0)
    ours, velocity = merged(one, x, eps, 1 / 3 + 2 / 3 * r, one.segments[1])
    theirs, rate = merged(other, x, eps, stage.start + (stage.stop - stage.start) * r, stage)
    torch.testing.assert_close(ours, theirs, **EXACT)
    torch.testing.assert_close(velocity * (2 / 3), rate * (stage.stop - stage.start), **EXACT)


@given(q=st.floats(0, 0.5))
def test_lapflow_s_coarse_stage_is_pyramidal_flow_s_after_a_change_of_scale_and_time(q):
    """LapFlow's coarse state over g = (1 + t)/2 is q D x + (1 - q) n, q = 2t/(1 + t), n = 2 D eps:
    Pyramidal's at u = q."""
    one, other = lapflow([0.0, 1 / 3]), pyramidal(2)
    x, eps = images(2, 1, 4, 4, seed=1), images(2, 1, 4, 4, seed=2)
    t, stage = q / (2 - q), other.segments[0]
    ours, _ = merged(one, x, eps, t, one.segments[0])
    theirs, _ = merged(other, x, eps, stage.global_time(q), stage)
    torch.testing.assert_close(ours / ((1 + t) / 2), theirs, **EXACT)
    torch.testing.assert_close(theirs, q * downsample(x) + (1 - q) * 2 * downsample(eps), **EXACT)


@pytest.mark.parametrize("starts", [(0.0, 0.5), (0.0, 0.33, 0.67), (0.0, 0.25, 0.5, 0.75)])
def test_lapflow_s_linear_path_is_edify_image_s(starts):
    """alpha_k = max(0, 1 - s/s*_k) with s*_k = (1 - T)/T, t = 1/(1 + s), x_FM = x_VE/(1 + s)."""
    edges = [(1 - start) / start for start in starts[1:]]
    ours, theirs = (
        lapflow(starts),
        compose(
            LaplacianPyramid(levels=len(starts)),
            CumulativeIntervals(starts=[0.0] + [0.9 + 0.01 * i for i in range(len(starts) - 1)]),
            EdifyPath(edges=edges),
            AppendBridge(),
            check=False,
        ),
    )
    x, eps = images(2, 1, 8, 8, seed=1), images(2, 1, 8, 8, seed=2)
    segment = theirs.segments[-1]
    for t in (0.8, 0.9, 0.97):
        level = (1 - t) / t
        exploding, _ = merged(theirs, x, eps, theirs.path.time(level, segment), segment)
        flowing, _ = merged(ours, x, eps, t, ours.segments[-1])
        torch.testing.assert_close(exploding / (1 + level), flowing, rtol=0, atol=1e-9)
        for k in segment.scales:  # the coefficients themselves, to rounding
            a = theirs.path.alpha(
                scalar_time(0.5), torch.tensor(level, dtype=torch.float64), scalar_time(1.0), segment, k
            )[0].item()
            b = ours.path.coefficients(scalar_time(t), ours.segments[-1], k).alpha.item()
            assert a / (1 + level) == pytest.approx(b, abs=1e-12)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_pyramidal_flow_s_bridge_has_the_published_constants(levels):
    """x_fine = a U x + (1 - s') H eps, a = s'/e = (1 + s')/2, e_i = (i+1)/S, s_(i+1) = e_i/(2 - e_i); H eps
    has correlation -1/3 inside a block: the corrective noise of gamma = -1/3."""
    flow = pyramidal(levels)
    noise = flow.draw_noise((1, 16, 16), 1, seeded(), dtype=torch.float64, device="cpu")
    for before, after in itertools.pairwise(flow.segments):
        e, s = before.window[1], after.window[0]
        assert s == pytest.approx(e / (2 - e))
        a = (1 + s) / 2
        assert a == pytest.approx(s / e)
        coarse = images(1, 1, 16 >> before.finest, 16 >> before.finest)
        (got,) = flow.enter(after.index, {before.finest: coarse}, noise).values()
        eps = after.noise_scale * flow.decomposition.synthesize(
            {k: x for k, x in noise[0].items() if k >= after.finest}, after.finest
        )
        want = a * upsample(coarse) + (1 - s) * (eps - upsample(downsample(eps)))
        torch.testing.assert_close(got, want, **EXACT)
    basis = torch.eye(4, dtype=torch.float64).reshape(4, 1, 2, 2)
    high = (basis - upsample(downsample(basis))).flatten(1)
    covariance = high.T @ high
    torch.testing.assert_close(
        covariance / covariance[0, 0],
        torch.full((4, 4), -1 / 3, dtype=torch.float64).fill_diagonal_(1.0),
        **EXACT,
    )


def test_windows_of_two_three_and_four_stages_are_the_published_ones():
    windows = {
        2: [(0, 1 / 2), (1 / 3, 1)],
        3: [(0, 1 / 3), (1 / 5, 2 / 3), (1 / 2, 1)],
        4: [(0, 1 / 4), (1 / 7, 1 / 2), (1 / 3, 3 / 4), (3 / 5, 1)],
    }
    breaks = {2: [0.429], 3: [0.256, 0.615], 4: [0.176, 0.426, 0.719]}
    for stages, expected in windows.items():
        segments = Stages(windows="pyramidal").segments(stages)
        assert [s.window for s in segments] == [pytest.approx(w) for w in expected]
        assert [s.start for s in segments[1:]] == pytest.approx(breaks[stages], abs=5e-4)


def test_edify_image_s_transition_and_pyramidal_flow_s_renoising_are_one_bridge():
    """The same class; a = 1 for EdifyImage, whose noise per pixel doubles: U x + sigma (R/r)(eps - U D
    eps)."""
    flow = edify([0.0, 0.4])
    before, _ = flow.segments
    noise = flow.draw_noise((1, 8, 8), 1, seeded(), dtype=torch.float64, device="cpu")
    coarse = images(1, 1, 4, 4)
    (got,) = flow.enter(1, {1: coarse}, noise).values()
    sigma = flow.path.coefficients(scalar_time(before.stop), before, 1).sigma.item()
    eps = flow.decomposition.synthesize(noise[0])
    torch.testing.assert_close(got, upsample(coarse) + 2 * sigma * (eps - upsample(downsample(eps))), **EXACT)
    assert type(flow.bridge) is type(pyramidal(2).bridge)


def test_lapflow_with_one_scale_and_lfm_without_floor_are_one():
    x, g = images(3, 2, 4, 4), 5
    one = lapflow([0.0]).training_point(x, seeded(g))
    other = compose(
        Identity(), CumulativeIntervals(starts=[0.0]), LinearPath(noise_floor=0.0), AppendBridge()
    ).training_point(x, seeded(g))
    assert torch.equal(one.state[0], other.state[0])
    assert torch.equal(one.target[0], other.target[0])


def test_lfm_s_noise_floor():
    """alpha = t, sigma = 1 - (1 - floor) t, target x1 - (1 - floor) x0."""
    flow = compose(
        Identity(), CumulativeIntervals(starts=[0.0]), LinearPath(noise_floor=1e-5), AppendBridge()
    )
    point = flow.training_point(images(3, 1, 4, 4), seeded())
    t = point.t[:, None, None, None]
    torch.testing.assert_close(
        point.state[0], t * point.data[0] + (1 - (1 - 1e-5) * t) * point.noise[0], **EXACT
    )
    torch.testing.assert_close(point.target[0], point.data[0] - (1 - 1e-5) * point.noise[0], **EXACT)


def test_discrete_diffusion_becomes_the_continuous_one_as_the_step_shrinks():
    """beta from 1e-4 to 2e-2 over N = 1000 is beta(t) from .1 to 20 in continuous time; the gap falls with
    N."""
    continuous = VPPath()
    segment = compose(Identity(), CumulativeIntervals(starts=[0.0]), VPPath(), AppendBridge()).segments[0]
    gaps = []
    for times in (250, 1000, 4000):
        path = DiscreteVPPath(times=times)
        scale = 1000 / times  # so that N betas add up to the same noise
        betas = scale * torch.linspace(1e-4, 2e-2, times, dtype=torch.float64)
        path._knots = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-betas).cumsum(0)])
        t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
        t = 1 - torch.ceil((1 - t) * times) / times
        a = path.coefficients(t, segment, 0).alpha
        gaps.append((a - continuous.coefficients(t, segment, 0).alpha).abs().max().item())
    assert gaps[1] < 0.6 * gaps[0]
    assert gaps[2] < 0.6 * gaps[1]
    assert gaps[2] < 2e-3


@given(t=st.floats(0.01, 0.99))
def test_flow_matching_and_variance_exploding_coordinates_convert_exactly(t):
    """x_FM = x_VE/(1 + s) with s = (1 - t)/t, and the velocity by the chain rule: dx_FM/dt = (x_VE' s' (1 +
    s) - x_VE s')/(1 + s)^2."""
    segment = CumulativeIntervals(starts=[0.0]).segments(1)[0]
    x, eps, s = images(1, 1, 2, 2, seed=1), images(1, 1, 2, 2, seed=2), (1 - t) / t
    ve, rate = x + s * eps, -1 / t**2
    c = LinearPath().coefficients(scalar_time(t), segment, 0)
    torch.testing.assert_close(c.position(x, eps), ve / (1 + s), rtol=1e-12, atol=1e-12)
    converted = (eps * rate * (1 + s) - ve * rate) / (1 + s) ** 2
    torch.testing.assert_close(converted, c.velocity(x, eps), rtol=1e-9, atol=1e-9)


def test_relay_s_blurring_and_noise():
    """alpha_ij of the published form; the noise eps + .15 box has total variance 1.0225, box lag-1
    correlation .75."""
    path = RelayPath()
    flow = compose(
        BlockDCT(),
        Stages(windows="full"),
        path,
        RenoiseBridge(),
        representation="merged",
        noise=BlurredNoise(BlockDCT()),
        prediction=EDMPrediction(),
    )
    segment = flow.segments[1]
    t = segment.start + 0.25 * (segment.stop - segment.start)
    alpha = path.coefficients(scalar_time(t), segment, 0).alpha
    for d in range(15):
        i, j = divmod(d + 1, 4)
        blur = 3 * math.sin(math.pi * 0.75 / 2) ** 2
        want = 0.999 * math.exp(-(math.pi**2 * (i * i + j * j) / 16) * blur**2 / 2) + 0.001
        assert alpha[d].item() == pytest.approx(want, rel=1e-12)
    sides = 8
    white = {k: torch.zeros(2 * sides**2, 1, sides, sides, dtype=torch.float64) for k in (0, 1)}
    white[0][: sides**2] = torch.eye(sides**2, dtype=torch.float64).reshape(-1, 1, sides, sides)
    white[1][sides**2 :] = torch.eye(sides**2, dtype=torch.float64).reshape(-1, 1, sides, sides)
    image = flow.decomposition.synthesize(flow.noise.from_white(white)).flatten(1)
    covariance = (image.T @ image).reshape(sides, sides, sides, sides)
    assert covariance[3, 3, 3, 3].item() == pytest.approx(1.0225, rel=1e-12)
    assert covariance[3, 3, 3, 4].item() == pytest.approx(0.0225 * 0.75, rel=1e-12)


def test_edm_s_preconditioning_by_its_own_formulas():
    """D(x) = c_skip x + c_out F(c_in x), weight (s^2 + sd^2)/(s sd)^2 of the error of D: as an error of F its
    weight is 1."""
    path, prediction = EDMPath(), EDMPrediction(sigma_data=0.5)
    segment = Stages(windows="full").segments(1)[0]
    x1, eps = images(4, 1, 2, 2, seed=1), images(4, 1, 2, 2, seed=2)
    t = torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    c = path.coefficients(t, segment, 0).expand(x1)
    s, x = c.sigma, x1 + c.sigma * eps
    out, skip = s * 0.5 / (s**2 + 0.25).sqrt(), 0.25 / (s**2 + 0.25)
    f = images(4, 1, 2, 2, seed=3)
    denoised, _ = prediction.endpoints(c, x, f, 1.0)
    torch.testing.assert_close(denoised, skip * x + out * f)
    weight = (s**2 + 0.25) / (s * 0.5) ** 2
    torch.testing.assert_close(
        weight * (denoised - x1) ** 2, (f - prediction.target(c, x, x1, eps, 1.0)) ** 2
    )
    torch.testing.assert_close(prediction.precondition(c, x), x / (s**2 + 0.25).sqrt())
    torch.testing.assert_close(path.model_time(t, segment), torch.log(c.sigma.flatten()) / 4)
    # The local time is the quantile of ln s ~ N(-1.2, 1.2^2): the median level at u = 1/2.
    assert path.coefficients(scalar_time(0.5), segment, 0).sigma.item() == pytest.approx(
        math.exp(-1.2), rel=1e-5
    )


def test_ddpm_s_betatilde_is_the_posterior_of_its_own_chain():
    path, segment = DiscreteVPPath(), CumulativeIntervals(starts=[0.0]).segments(1)[0]
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    abar = (1 - betas).cumprod(0)
    for n in (1, 10, 500, 999):
        now, after = (path.coefficients(scalar_time(1 - (m + 1) / 1000), segment, 0) for m in (n, n - 1))
        assert now.alpha.item() ** 2 == pytest.approx(abar[n].item(), rel=1e-12)
        want = betas[n] * (1 - abar[n - 1]) / (1 - abar[n])
        assert posterior_variance(now, after).item() == pytest.approx(want.item(), rel=1e-9)


def test_block_dct_is_scipy_s():
    from scipy.fft import dctn

    x = images(2, 3, 8, 12)
    state = BlockDCT().analyze(x)
    blocks = x.reshape(2, 3, 2, 4, 3, 4).permute(0, 1, 2, 4, 3, 5).numpy()
    want = torch.from_numpy(dctn(blocks, axes=(-2, -1), norm="ortho")).flatten(-2)  # [b, c, h/4, w/4, 16]
    torch.testing.assert_close(state[1], F.avg_pool2d(x, 4))
    torch.testing.assert_close(
        state[0].reshape(2, 3, 15, 2, 3), want[..., 1:].permute(0, 1, 4, 2, 3), **EXACT
    )


def test_noise_prediction_of_a_cascade_is_told_its_corruption_level():
    from lapflow.flows import ConditionBridge

    flow = compose(
        LaplacianPyramid(levels=2),
        Stages(windows="full"),
        VPPath(),
        ConditionBridge(),
        representation="merged",
        prediction=NoisePrediction(),
    )
    x = images(64, 1, 4, 4)
    point = next(p for s in range(20) if (p := flow.training_point(x, seeded(s))).segment.index == 1)
    assert point.condition.image.level.shape == (64,)
    assert 0 <= point.condition.image.level.min() <= point.condition.image.level.max() < 0.5
    assert point.condition.image.value[0].shape == (64, 1, 4, 4)
    # corrupted before upsampling: constant on 2x2 blocks, near the upsampled image where the level is low
    torch.testing.assert_close(
        point.condition.image.value[0], upsample(downsample(point.condition.image.value[0]))
    )
    low = point.condition.image.level.argmin()
    assert (
        point.condition.image.value[0][low] - upsample(downsample(x))[low]
    ).abs().max() < 4 * point.condition.image.level[low] + 0.01


def cascade(**bridge):
    from lapflow.flows import ConditionBridge

    decomposition, intervals = LaplacianPyramid(levels=2), Stages(windows="full", segment_sampling="sample")
    return compose(
        decomposition,
        intervals,
        VPPath(),
        ConditionBridge(**bridge),
        representation="merged",
        prediction=NoisePrediction(),
    )


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_cascade_corrupts_by_its_formula_in_training_and_sampling(where):
    """z = sqrt(1 - s^2) U y + s n: n white of unit variance at the coarser resolution and upsampled (before),
    or at the full one (after); the level that the network is told is the one used."""
    flow = cascade(corrupt=where, corruption_level=0.3)
    y = images(2, 1, 4, 4)
    noise = flow.draw_noise((1, 8, 8), 2, seeded(), dtype=torch.float64, device="cpu")
    condition = flow.condition(1, {1: y}, noise)
    eps = flow.decomposition.synthesize(noise[2])
    n = upsample(2 * downsample(eps)) if where == "before" else eps
    torch.testing.assert_close(
        condition.image.value[0], (1 - 0.3**2) ** 0.5 * upsample(y) + 0.3 * n, rtol=0, atol=1e-7
    )
    assert condition.image.level.tolist() == pytest.approx([0.3, 0.3])
    x, generators = images(8, 1, 8, 8), [torch.Generator().manual_seed(i) for i in range(8)]
    point = next(p for p in flow.training_points(x, generators) if p.segment.index)
    rest = point.condition.image.value[0] - (
        1 - point.condition.image.level[:, None, None, None] ** 2
    ).sqrt() * upsample(downsample(x[point.index]))
    std = (rest / point.condition.image.level[:, None, None, None]).flatten(1).std(1)
    assert std == pytest.approx(torch.ones_like(std), abs=0.6)


@pytest.mark.parametrize("name", ["mot-dit", "unet"])
def test_the_level_reaches_the_network(name):
    from lapflow.core.condition import IMAGE, Condition, Image
    from lapflow.models import MoTDiT
    from lapflow.models.unet import UNet

    bands = cascade().network_bands((1, 8, 8))
    if name == "unet":
        model = UNet(bands, channels=[8], layers=1, attention_levels=[], groups=4, head_width=4)
    else:
        model = MoTDiT(bands, depth=1, width=16, heads=2, patch=2)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3, generator=seeded())
    x, image = images(2, 1, 8, 8).float(), images(2, 1, 8, 8, seed=1).float()
    outputs = [
        model({0: x}, torch.full((2,), 0.5), Condition({IMAGE: Image({0: image}, torch.full((2,), s))}))[
            "main"
        ][0]
        for s in (0.1, 0.4)
    ]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-4


def test_training_gives_the_network_what_sampling_gives_it():
    """Preconditioned: c_in x; and `network_input` of the state says the same."""
    flow = edify([0.0, 0.4])
    point = flow.training_point(images(4, 1, 8, 8), seeded(3))
    bands, _ = flow.interpolate(point.data, point.noise, point.path_time, point.segment)
    state = flow.to_image(bands, point.segment)
    sigma = flow.path.coefficients(point.path_time, point.segment, 1).sigma[:, None, None, None]
    (k,) = state
    torch.testing.assert_close(point.state[k], state[k] / (sigma**2 + 0.25).sqrt())
    torch.testing.assert_close(flow.network_input(state, point.path_time, point.segment)[k], point.state[k])


@pytest.mark.parametrize(
    "make", [cascade, lambda: relay(segment_sampling="sample")], ids=["cascade", "relay"]
)
def test_a_sample_s_training_pair_is_its_own_generator_s(make):
    """Alone or in a batch that draws other segments too, but for the rounding of a matrix product, which may
    depend on the batch."""

    def same(batch, row, alone):
        return all(torch.allclose(batch[k][row : row + 1], v, rtol=0, atol=1e-6) for k, v in alone.items())

    flow, x = make(), images(8, 1, 8, 8)
    whole = flow.training_points(x, [torch.Generator().manual_seed(i) for i in range(8)])
    assert len(whole) == 2
    for point in whole:
        for row, i in enumerate(point.index.tolist()):
            (alone,) = flow.training_points(x[i : i + 1], [torch.Generator().manual_seed(i)])
            assert alone.segment.index == point.segment.index
            assert same(point.state, row, alone.state)
            if point.condition.image is not None:
                assert same(point.condition.image.value, row, alone.condition.image.value)


def relay(**intervals):
    parts = (BlockDCT(), Stages(windows="full", **intervals), RelayPath(), RenoiseBridge())
    return compose(
        *parts,
        representation="merged",
        noise=BlurredNoise(BlockDCT()),
        prediction=EDMPrediction(max_weight=1e5),
    )


def test_relay_s_step_is_the_published_one():
    """Coefficientwise x' = gamma x + (alpha' - gamma alpha) x1hat + .2 sigma' n, gamma = sqrt(1 - .04)
    sigma'/sigma."""
    from lapflow.sampling.sampler import FlowField
    from lapflow.solvers import RelaySolver

    class Half(FlowField):
        def predict(self, state, t):
            return {"main": {k: torch.tanh(x) for k, x in state.items()}}

        def noise(self, bands, generator):
            return fresh

    flow = relay()
    segment = flow.segments[1]
    field, x = Half(flow, segment, (1, 8, 8)), images(1, 1, 8, 8)
    fresh = flow.decomposition.analyze(images(1, 1, 8, 8, seed=5))
    grid = field.grid(20)
    t, after = grid[3], grid[4]
    got = flow.to_bands(RelaySolver(steps=20).step(field, {0: x}, t, after, None)[0], segment)
    data, _ = flow.endpoints({0: torch.tanh(x)}, {0: x}, scalar_time(t), segment)
    bands = flow.to_bands({0: x}, segment)
    for k in segment.scales:
        c, d = (flow.path.coefficients(scalar_time(s), segment, k).expand(bands[k]) for s in (t, after))
        gamma = (1 - 0.04) ** 0.5 * d.sigma / c.sigma
        want = gamma * bands[k] + (d.alpha - gamma * c.alpha) * data[k] + 0.2 * d.sigma * fresh[k]
        torch.testing.assert_close(got[k], want, rtol=1e-10, atol=1e-10)


def test_edm_s_grid_is_karras():
    """sigma_i = (80^(1/7) + i/(n-1) (.002^(1/7) - 80^(1/7)))^7 for n levels, then 0."""
    path, segment = EDMPath(), Stages(windows="full").segments(1)[0]
    levels = [path.coefficients(scalar_time(t), segment, 0).sigma.item() for t in path.grid(segment, 18)]
    want = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    assert levels[:-1] == pytest.approx(want, rel=1e-6)
    assert levels[-1] == 0


def test_weights_of_predictions_and_draws_of_stages():
    from lapflow.core.prediction import ScorePrediction

    path, segment = EDMPath(), Stages(windows="full").segments(1)[0]
    t = torch.linspace(0.1, 0.9999, 9, dtype=torch.float64)
    c = path.coefficients(t, segment, 0)
    s = c.sigma
    # EDM's weight (s^2 + sd^2)/(s sd)^2 of the error of D, clipped at w, over what it is in the error of F
    weight = ((s**2 + 0.25) / (s * 0.5) ** 2).clamp(max=40.0) * (s * 0.5) ** 2 / (s**2 + 0.25)
    torch.testing.assert_close(EDMPrediction(max_weight=40.0).weight(c, 1.0), weight)
    torch.testing.assert_close(ScorePrediction().weight(c, 0.5), (0.5 * s) ** 2)
    flow = pyramidal(3)
    for seed in range(12):
        point = flow.training_point(images(64, 1, 8, 8), seeded(seed))
        assert point.segment.start <= point.path_time.min()
        assert point.path_time.max() < point.segment.stop


def test_the_last_time_of_a_table_is_trained_wherever_sampling_ends():
    for clean in (True, False):
        path = DiscreteVPPath(times=10, betas="scaled-linear", clean_end=clean)
        segment = CumulativeIntervals(starts=[0.0]).segments(1)[0]
        (draw,) = CumulativeIntervals(starts=[0.0]).draw(
            (segment,),
            4000,
            generator=seeded(),
            stage_generator=seeded(1),
            train_t_max=[path.train_t_max(segment)],
            time_law=Uniform(),
            dtype=torch.float32,
            device="cpu",
        )
        n = (path.model_time(path.discretize(draw.t, segment), segment) * 1000).round().long()
        assert n.unique().tolist() == list(range(10))
        assert n.bincount().min() > 300


def test_a_solver_s_fresh_noise_is_in_the_segment_s_unit():
    from lapflow.sampling.sampler import FlowField

    class Silent(FlowField):
        def predict(self, state, t):
            return {"main": dict(state)}

    flow = pyramidal(2)
    for segment in flow.segments:
        field = Silent(flow, segment, (1, 32, 32))
        bands = {
            k: torch.zeros(8, *b.shape, dtype=torch.float64)
            for k, b in flow.bands((1, 32, 32)).items()
            if k in segment.scales
        }
        assert flow.decomposition.synthesize(
            field.noise(bands, seeded()), segment.finest
        ).std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("make", [relay, lambda: edify([0.0, 0.4])], ids=["block-dct", "laplacian"])
def test_autocast_does_not_round_the_state(make):
    flow = make()
    segment, x = flow.segments[1], images(2, 1, 8, 8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        back = flow.to_image(flow.to_bands({0: x}, segment), segment)[0]
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)
