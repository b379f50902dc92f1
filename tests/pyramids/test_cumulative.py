"""Cumulative intervals: the segments, the law of the draws, what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lapflow.core.errors import ConfigError
from lapflow.core.time_law import Uniform
from lapflow.schedules import CumulativeIntervals
from lapflow.util.random import keyed_generator
from tests.support import STARTS, make_flow, seeded


def draw(schedule, levels, batch, seed=0, end=1.0):
    kwargs = {
        "generator": seeded(seed),
        "stage_generator": seeded(seed + 1),
        "train_t_max": [end] * levels,
        "time_law": Uniform(),
        "dtype": torch.float32,
        "device": "cpu",
    }
    return schedule.draw(schedule.segments(levels), batch, **kwargs)


@given(st.lists(st.floats(0.01, 0.99), min_size=0, max_size=5, unique=True))
def test_segments_partition_the_clock_and_scales_accumulate(rest):
    starts = [0.0, *sorted(rest)]
    segments = CumulativeIntervals(starts=starts).segments(len(starts))
    assert segments[0].start == 0
    assert segments[-1].stop == 1
    assert [s.stop for s in segments[:-1]] == [s.start for s in segments[1:]]
    for j, segment in enumerate(segments):
        assert segment.scales == tuple(range(len(starts) - 1, len(starts) - 2 - j, -1))
        assert all(segment.scale_starts[k] == starts[len(starts) - 1 - k] for k in segment.scales)


def test_coarse_time_density_is_the_papers():
    """K = 2, T = .5: density .5 on [0, .5] and 1.5 on [.5, 1]."""
    schedule = CumulativeIntervals(starts=[0, 0.5])
    times = torch.cat([draw(schedule, 2, 256, seed)[0].t for seed in range(0, 800, 2)])
    assert (times < 0.5).float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("law", ["batch", "sample"])
@pytest.mark.parametrize("levels", STARTS)
def test_draws_cover_the_batch_once_and_stay_in_range(law, levels):
    schedule = CumulativeIntervals(starts=STARTS[levels], segment_sampling=law)
    draws = draw(schedule, levels, 64, end=0.999)
    covered = torch.cat([torch.arange(64) if d.index is None else d.index for d in draws])
    assert covered.sort().values.tolist() == list(range(64))
    for d in draws:
        assert ((d.t >= d.segment.start) & (d.t < 0.999)).all()
    assert len(draws) == (1 if law == "batch" else levels)


def test_the_segment_of_a_batch_comes_from_the_stage_generator_alone():
    flow = make_flow(4)
    x = torch.zeros(2, 1, 8, 8)
    segments = [
        flow.training_point(
            x, [keyed_generator(rank, i) for i in range(2)], keyed_generator("stage", 3)
        ).segment
        for rank in range(5)
    ]
    assert len({s.index for s in segments}) == 1


def test_weights_are_per_scale_coarse_to_fine():
    schedule = CumulativeIntervals(starts=[0, 0.5], weights=[1.0, 3.0])
    assert (schedule.scale_weight(1, 2), schedule.scale_weight(0, 2)) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"starts": [0.5, 0.0]}, "must begin at 0"),
        ({"starts": [0.0, 0.6, 0.4]}, "out of order"),
        ({"starts": [0.0, 0.4, 0.4]}, "out of order"),
        ({"starts": [0.0, 1.0]}, "out of range"),
        ({"starts": []}, "must begin at 0"),
        ({"starts": [0.0, 0.5], "weights": [1.0]}, "every scale"),
        ({"starts": [0.0, 0.5], "weights": [1.0, -1.0]}, "weights"),
    ],
)
def test_bad_schedules_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CumulativeIntervals(**arguments)


def test_starts_and_levels_must_agree():
    with pytest.raises(ConfigError, match="different numbers of scales"):
        CumulativeIntervals(starts=[0.0, 0.5]).segments(3)
