"""Laws of training times against their definitions, and through a schedule's draws."""

import math

import pytest
import torch

from lapflow.core.time_law import Uniform
from lapflow.schedules import CumulativeIntervals
from lapflow.schedules.draws import LogitNormal, Shifted
from tests.support import seeded


def test_logit_normal_is_normal_in_the_logit():
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    t = LogitNormal(mean=0.3, std=0.8).quantile(u, 0, 1)
    normal = torch.distributions.Normal(0.3, 0.8)
    assert torch.allclose(normal.cdf(torch.log(t / (1 - t))), u, atol=1e-12)


@pytest.mark.parametrize("a", [0.5, 1.0, 3.0])
def test_shifting_scales_the_ratio_of_noise_to_data(a):
    """s / (1 - s) of the noise level is multiplied by a: the definition behind Esser et al.'s eq. 23."""
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    t = Shifted(shift=a).quantile(u, 0, 1)
    assert torch.allclose((1 - t) / t, a * (1 - u) / u, rtol=1e-12)
    assert a != 1 or torch.allclose(t, u, atol=1e-15)


@pytest.mark.parametrize("draw", ["batch", "sample", "balanced"])
def test_a_schedule_draws_by_the_law_of_its_finest_scale(draw):
    law = Shifted(shift=[1.0, 4.0])
    schedule = CumulativeIntervals(starts=[0.0, 0.5], segment_sampling=draw)
    segments, found = schedule.segments(2), {0: [], 1: []}
    for step in range(40):
        drawn = schedule.draw(
            segments,
            200,
            generator=seeded(step),
            stage_generator=seeded(step + 1000),
            train_t_max=[1.0, 1.0],
            time_law=law,
            dtype=torch.float64,
            device="cpu",
        )
        for one in drawn:
            found[one.segment.index].append((one.t - one.segment.start) / (1 - one.segment.start))
    for index, scale in ((0, 1), (1, 0)):
        t = torch.cat(found[index]).sort().values
        u = torch.linspace(0, 1, len(t), dtype=torch.float64)
        # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand.
        assert (law.quantile(u, scale, 2) - t).abs().max() <= 1.95 / math.sqrt(len(t))


def test_the_uniform_law_changes_no_draw():
    u = torch.rand(100, generator=seeded())
    assert Uniform().quantile(u, 0, 1) is u
