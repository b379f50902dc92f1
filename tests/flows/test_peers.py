"""Agreement with independent code: flow_matching's paths, diffusers' schedulers."""

import diffusers
import pytest
import torch
from flow_matching.path import AffineProbPath, CondOTProbPath
from flow_matching.path.scheduler import CosineScheduler, VPScheduler

from lapflow.core.flow import Flow
from lapflow.core.prediction import NoisePrediction
from lapflow.core.state import clock
from lapflow.flows import AppendBridge, DiscreteVPPath, GVPPath, LinearPath, VPPath
from lapflow.pyramids import CumulativeIntervals, Identity
from lapflow.sampling.field import FlowField
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
    x0, x1, t = images(5, 1, 4, 4, seed=1), images(5, 1, 4, 4, seed=2), torch.linspace(0.05, 0.95, 5, dtype=torch.float64)
    flow = Flow(Identity(), ONE, ours, AppendBridge())
    state, velocity = flow.interpolate({0: x1}, {0: x0}, t, flow.segments[0])
    sample = theirs.sample(x_0=x0, x_1=x1, t=t)
    torch.testing.assert_close(state[0], sample.x_t, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(velocity[0], sample.dx_t, rtol=1e-6, atol=1e-6)


class Fixed(FlowField):
    """A "network" that returns a fixed function of state and time, as noise prediction with a variance head."""

    def predict(self, state, t):
        n = 1000 * float(self.flow.path.model_time(clock(t), self.segment))
        return {"main": {k: net(x, n) for k, x in state.items()}, "variance": {k: torch.sin(x) for k, x in state.items()}}


def net(x, n):
    return torch.tanh(0.7 * x + 0.001 * n)


def flow_of(**path):
    return Flow(Identity(), ONE, DiscreteVPPath(**path), AppendBridge(), prediction=NoisePrediction())


def test_ddim_is_diffusers():
    flow = flow_of(betas="scaled-linear", spacing="leading", clean_end=False)
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
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
        beta_start=1e-4, beta_end=2e-2, clip_sample=False, variance_type=names[variance], timestep_spacing="linspace"
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
        output = torch.cat([heads["main"][0], heads["variance"][0]], dim=1) if variance == "learned" else heads["main"][0]
        want = scheduler.step(output, n, x).prev_sample
        torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-5)
