"""The schedule keeps the contract, its law is exact, and a run trains and samples; a U-Net is refused."""

from __future__ import annotations

import pytest
import torch
from lapflow_scale_times import ScaleTimes

import lapflow
from lapflow.analysis.checking import check_bands
from lapflow.config.loading import load_config
from lapflow.core.errors import ConfigError
from lapflow.flows import AppendBridge, LinearPath
from lapflow.flows.laws import check_laws
from lapflow.plugins.conformance import IntervalsConformance
from lapflow.pyramids import LaplacianPyramid
from lapflow.solvers import RK4
from lapflow.training.loop import train

SMALL = [
    "model.width=16",
    "model.heads=2",
    "model.depth=1",
    "training.batch_size=8",
    "training.warmup_steps=0",
    "training.steps=2",
]


class TestScaleTimes(IntervalsConformance):
    def make(self):
        return ScaleTimes()


def flow():
    return lapflow.compose(LaplacianPyramid(levels=3), ScaleTimes(), LinearPath(), AppendBridge())


def test_the_law_is_exact_and_the_oracle_finds_the_data():
    assert check_laws(flow()).worst <= 1e-12
    assert all(band.std_error < 1e-3 for band in check_bands(flow(), RK4(steps=100)).bands)


def test_a_pair_is_the_linear_path_at_each_scale_s_own_time():
    x, made = torch.randn(4, 1, 8, 8), flow()
    for seed in range(8):
        point = made.training_point(x, torch.Generator().manual_seed(seed))
        assert list(point.t) == list(point.state) == list(point.segment.scales)
        for k, t in point.t.items():
            t = t[:, None, None, None]
            torch.testing.assert_close(point.state[k], t * point.data[k] + (1 - t) * point.noise[k])
            torch.testing.assert_close(point.target[k], point.data[k] - point.noise[k])


@pytest.mark.parametrize("model", ["mot-dit", "separate"])
def test_it_trains_and_samples(model, tmp_path):
    options = [f"model.name={model}", "flow.intervals=scale-times"]
    run = train(load_config("lapflow-digits", [*SMALL, *options]), tmp_path / "run")
    assert lapflow.load(run, device="cpu").sample(2).images.shape == (2, 1, 8, 8)


def test_a_network_without_times_per_scale_is_refused(tmp_path):
    unet = "model={name: unet, channels: [8, 16], layers: 1, attention_levels: [1], head_width: 8, groups: 4}"
    with pytest.raises(ConfigError, match="one time for all scales"):
        train(load_config("lapflow-digits", [unet, "flow.intervals=scale-times"]), tmp_path / "run")
