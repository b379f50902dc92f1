"""Agreement with independent code: flow_matching's paths, diffusers' schedulers."""

import diffusers
import pytest
import torch
from flow_matching.path import AffineProbPath, CondOTProbPath
from flow_matching.path.scheduler import CosineScheduler, VPScheduler

from lapflow.core.prediction import NoisePrediction
from lapflow.core.state import scalar_time
from lapflow.flows import AppendBridge, DiscreteVPPath, GVPPath, LinearPath, VPPath
from lapflow.flows.compose import compose
from lapflow.pyramids import Identity
from lapflow.sampling.sampler import FlowField
from lapflow.schedules import CumulativeIntervals
from lapflow.solvers import DDIM, DDPM
from tests.support import images

ONE = CumulativeIntervals(starts=[0.0])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LinearPath(), CondOTProbPath()),
        (GVPPath(), AffineProbPath(CosineScheduler())),
        (VPPath(), AffineProbPath(VPScheduler(beta_min=0.1, beta_max=20.0))),
    ],
    ids=["linear", "gvp", "vp"],
)
def test_single_scale_paths_are_those_of_flow_matching(ours, theirs):
    x0, x1, t = (
        images(5, 1, 4, 4, seed=1),
        images(5, 1, 4, 4, seed=2),
        torch.linspace(0.05, 0.95, 5, dtype=torch.float64),
    )
    flow = compose(Identity(), ONE, ours, AppendBridge())
    state, velocity = flow.interpolate({0: x1}, {0: x0}, t, flow.segments[0])
    sample = theirs.sample(x_0=x0, x_1=x1, t=t)
    torch.testing.assert_close(state[0], sample.x_t, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(velocity[0], sample.dx_t, rtol=1e-6, atol=1e-6)


class Fixed(FlowField):
    """A "network" that returns a fixed function of state and time, as noise prediction with a variance
    head."""

    def predict(self, state, t):
        n = 1000 * float(self.flow.path.model_time(scalar_time(t), self.segment))
        return {
            "main": {k: net(x, n) for k, x in state.items()},
            "variance": {k: torch.sin(x) for k, x in state.items()},
        }


def net(x, n):
    return torch.tanh(0.7 * x + 0.001 * n)


def flow_of(**path):
    return compose(Identity(), ONE, DiscreteVPPath(**path), AppendBridge(), prediction=NoisePrediction())


def ldm_scheduler():
    return diffusers.DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def test_ddim_is_diffusers():
    flow = flow_of(betas="scaled-linear", spacing="leading", clean_end=False)
    scheduler = ldm_scheduler()
    x = images(2, 1, 4, 4)
    segment = flow.segments[0]
    got, work = DDIM(steps=50).solve(Fixed(flow, segment, (1, 4, 4)), {0: x}, segment)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == 981
    for n in scheduler.timesteps:
        x = scheduler.step(net(x, float(n)), n, x).prev_sample
    assert work.evaluations == 50
    torch.testing.assert_close(got[0], x, rtol=1e-4, atol=1e-5)  # their table of alphas is float32


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_ddpm_s_steps_are_diffusers(variance, monkeypatch):
    """Step by step from the same states with the same noise: DiT's 250 of 1,000 times."""
    names = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}
    flow = flow_of()
    segment = flow.segments[0]
    field = Fixed(flow, segment, (1, 4, 4))
    scheduler = diffusers.DDPMScheduler(
        beta_start=1e-4,
        beta_end=2e-2,
        clip_sample=False,
        variance_type=names[variance],
        timestep_spacing="linspace",
    )
    scheduler.set_timesteps(250)
    grid = field.grid(250)
    assert [round(1000 * (1 - t)) - 1 for t in grid[:-1]] == scheduler.timesteps.tolist()
    noise = images(2, 1, 4, 4, seed=9)
    monkeypatch.setattr(field, "noise", lambda bands, generator: {0: noise})
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: noise)
    solver = DDPM(steps=250, variance=variance)
    for i in (0, 17, 120, 248):
        x, n = images(2, 1, 4, 4, seed=i), scheduler.timesteps[i]
        got = solver.step(field, {0: x}, grid[i], grid[i + 1], None)[0][0]
        heads = field.predict({0: x}, grid[i])
        output = (
            torch.cat([heads["main"][0], heads["variance"][0]], dim=1)
            if variance == "learned"
            else heads["main"][0]
        )
        want = scheduler.step(output, n, x).prev_sample
        torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-5)


def test_stochastic_ddim_is_diffusers(monkeypatch):
    """eta = .5, step by step with the same noise."""
    flow = flow_of(betas="scaled-linear", spacing="leading", clean_end=False)
    segment, noise = flow.segments[0], images(2, 1, 4, 4, seed=9)
    field = Fixed(flow, segment, (1, 4, 4))
    scheduler = ldm_scheduler()
    scheduler.set_timesteps(50)
    monkeypatch.setattr(field, "noise", lambda bands, generator: {0: noise})
    grid = field.grid(50)
    for i in (0, 20, 48):
        x, n = images(2, 1, 4, 4, seed=i), scheduler.timesteps[i]
        got = DDIM(steps=50, eta=0.5).step(field, {0: x}, grid[i], grid[i + 1], None)[0][0]
        want = scheduler.step(net(x, float(n)), n, x, eta=0.5, variance_noise=noise).prev_sample
        torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-5)


def test_the_variational_term_is_the_kl_divergence_of_torch_s_normals():
    """q(x_(n-1) | x_n, x1) against p with the predicted mean (detached) and the learned variance, in bits; n
    = 0: the likelihood."""
    from torch.distributions import Normal, kl_divergence

    from lapflow.objectives.mse import VariationalMSE

    flow = compose(Identity(), ONE, DiscreteVPPath(), AppendBridge(), prediction=NoisePrediction())
    x1 = images(64, 1, 4, 4).clamp(-1, 1).float()
    point = flow.training_point(x1, torch.Generator().manual_seed(0))
    n = (1000 * (1 - point.path_time)).round().long() - 1
    assert n.min() > 0
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    abar = (1 - betas).cumprod(0)
    before = abar[n - 1]
    eps, head = images(64, 1, 4, 4, seed=3).float(), images(64, 1, 4, 4, seed=4).float().requires_grad_()
    xn = point.state[0].double()

    def column(v):
        return v[:, None, None, None]

    def mean(data):
        return (
            column(before.sqrt() * betas[n] / (1 - abar[n])) * data
            + column((1 - betas[n]).sqrt() * (1 - before) / (1 - abar[n])) * xn
        )

    small = column(betas[n] * (1 - before) / (1 - abar[n]))
    predicted = (xn - column((1 - abar[n]).sqrt()) * eps) / column(abar[n].sqrt())
    v = (head.double() + 1) / 2
    learned = torch.exp(v * torch.log(column(betas[n])) + (1 - v) * torch.log(small))
    want = kl_divergence(
        Normal(mean(x1.double()), small.sqrt()), Normal(mean(predicted), learned.sqrt())
    ).mean() / torch.log(torch.tensor(2.0))
    output = eps.clone().requires_grad_()
    objective, heads = VariationalMSE(), {"main": {0: output}, "variance": {0: head}}
    objective.build(flow, flow.bands((1, 4, 4)), 0)
    got = objective(lambda *given: heads, point)["variational"]
    assert got.item() == pytest.approx(want.item(), rel=2e-3)
    got.backward()
    assert head.grad.abs().max() > 0
    assert output.grad is None or not output.grad.any(), "the mean is detached"


def test_the_last_step_of_the_variational_term_is_a_likelihood_of_grey_levels():
    """n = 0: minus log2 of the mass of the data's bin under N(predicted, beta_0); the outermost bins are
    open."""
    from torch.distributions import Normal

    from lapflow.objectives.mse import VariationalMSE

    term = VariationalMSE(bin_width=0.125)
    data = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    law = Normal(torch.tensor([-0.9, 0.02, 0.4, 0.95]), 0.1)
    got = term._likelihood(data, law.mean, torch.full((4,), 0.1))
    low = torch.tensor([-torch.inf, -0.0625, 0.4375, 0.9375])
    high = torch.tensor([-0.9375, 0.0625, 0.5625, torch.inf])
    torch.testing.assert_close(got, torch.log(law.cdf(high) - law.cdf(low)), rtol=1e-4, atol=1e-5)
