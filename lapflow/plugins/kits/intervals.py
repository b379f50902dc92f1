"""The interval contract: segments partition the times, scales join coarse to fine, draws are lawful and
repeatable."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.intervals import Draw, IntervalSchedule, Segment
from lapflow.core.time_law import Uniform
from lapflow.plugins.kits.base import Conformance
from lapflow.util.random import keyed_generator


def drawn_times(draw: Draw) -> list[Tensor]:
    """The shared time of a draw, or that of each scale, coarse to fine."""
    return [draw.t] if isinstance(draw.t, Tensor) else [draw.t[k] for k in draw.segment.scales]


def first_time(segment: Segment, scale: int) -> float:
    """The path's variable of a scale at the segment's start."""
    window = segment.of(scale).window
    return window[0] if window else segment.start


class IntervalsConformance(Conformance):
    """`levels` is the number of scales that `make()`'s schedule is for, `contractions` those of their
    decomposition; `t_max` the path's last time in draws."""

    kind = "intervals"
    levels: ClassVar[int] = 2
    contractions: ClassVar[Sequence[float] | None] = None
    batch: ClassVar[int] = 64
    t_max: ClassVar[float] = 0.999

    def make(self) -> IntervalSchedule:
        raise NotImplementedError("override make() to return the schedule under test")

    def segments(self, schedule: IntervalSchedule) -> tuple[Segment, ...]:
        return schedule.segments(self.levels, self.contractions)

    def draws(self, key: int, dtype: torch.dtype = torch.float32) -> list[Draw]:
        schedule = self.make()
        return schedule.draw(
            self.segments(schedule),
            self.batch,
            generator=keyed_generator("sample", key),
            stage_generator=keyed_generator("stage", key),
            train_t_max=[self.t_max] * len(self.segments(schedule)),
            time_law=Uniform(),
            dtype=dtype,
            device="cpu",
        )

    def test_segments_partition_the_clock(self) -> None:
        """In time order from 0 to 1 without gap or overlap, indexed from 0."""
        segments = self.segments(self.make())
        assert [s.index for s in segments] == list(range(len(segments)))
        assert segments[0].start == 0
        assert segments[-1].stop == 1
        for before, after in itertools.pairwise(segments):
            assert before.stop == after.start
        assert all(s.start < s.stop for s in segments)

    def test_scales_join_coarse_to_fine(self) -> None:
        """Active scales are the coarsest ones, listed coarse to fine; a scale stays; all are active at the
        end."""
        segments = self.segments(self.make())
        for s in segments:
            assert list(s.scales) == list(range(self.levels - 1, self.levels - 1 - len(s.scales), -1)), (
                f"segment {s.index}"
            )
            assert all(entry <= first_time(s, k) for k, entry in s.scale_starts.items()), (
                "a scale is not active before it enters"
            )
        for before, after in itertools.pairwise(segments):
            assert len(before.scales) <= len(after.scales)
            assert all(after.scale_starts[k] == entry for k, entry in before.scale_starts.items()), (
                "a scale enters once"
            )
            entered = set(after.scales) - set(before.scales)
            assert all(after.scale_starts[k] == first_time(after, k) for k in entered)
        assert len(segments[-1].scales) == self.levels

    def test_grids_run_from_start_to_stop(self) -> None:
        """n + 1 rising times, the ends exact."""
        for segment in self.segments(self.make()):
            for steps in (1, 7):
                grid = segment.grid(steps)
                assert len(grid) == steps + 1
                assert grid[0] == segment.start
                assert grid[-1] == segment.stop
                assert all(a < b for a, b in itertools.pairwise(grid))

    def test_each_sample_is_in_exactly_one_draw(self) -> None:
        """The draws' indices cover the batch without overlap."""
        for key in range(8):
            found = [
                i
                for draw in self.draws(key)
                for i in (range(self.batch) if draw.index is None else draw.index.tolist())
            ]
            assert sorted(found) == list(range(self.batch))
            for draw in self.draws(key):
                rows = self.batch if draw.index is None else len(draw.index)
                assert isinstance(draw.t, Tensor) or self.make().times_per_scale
                assert all(t.shape == (rows,) for t in drawn_times(draw))

    def test_times_lie_in_the_segment_s_domain(self) -> None:
        """Every time is in [segment.start, end), a scale's own in [0, end), in each dtype, and no segment is
        left out for ever."""
        seen: set[int] = set()
        for key in range(24):
            for dtype in (torch.float32, torch.float64):
                for draw in self.draws(key, dtype):
                    first = 0 if self.make().times_per_scale else draw.segment.start
                    for t in drawn_times(draw):
                        assert t.dtype == dtype
                        assert bool((t >= first - 1e-7).all())
                        assert bool((t < self.t_max).all())
                    seen.add(draw.segment.index)
        assert seen == {s.index for s in self.segments(self.make())}

    def test_draws_are_a_function_of_the_generators(self) -> None:
        """The same generators give the same draws, others give other times."""
        first, again, other = self.draws(0), self.draws(0), self.draws(1)
        assert [d.segment for d in first] == [d.segment for d in again]
        one, two, three = (
            torch.cat([t for d in drawn for t in drawn_times(d)]) for drawn in (first, again, other)
        )
        assert torch.equal(one, two)
        assert not torch.equal(one.sort().values, three.sort().values)

    def test_what_is_common_to_the_ranks_comes_from_the_stage_generator(self) -> None:
        """A schedule that says so trains the same segments in every process, each with the same number of
        samples."""
        schedule = self.make()
        segments = self.segments(schedule)
        chosen: list[list[tuple[Segment, int]]] = []
        for rank in range(6):
            drawn = schedule.draw(
                segments,
                self.batch,
                generator=keyed_generator("rank", rank),
                stage_generator=keyed_generator("stage", 3),
                train_t_max=[self.t_max] * len(self.segments(schedule)),
                time_law=Uniform(),
                dtype=torch.float32,
                device="cpu",
            )
            chosen.append([(draw.segment, len(drawn_times(draw)[0])) for draw in drawn])
        same = all(other == chosen[0] for other in chosen)
        assert same or not schedule.common
        assert not same or schedule.common or len(segments) == 1, (
            "its segments are common to the processes: set common"
        )

    def test_a_share_is_drawn_as_its_part_of_the_batch(self) -> None:
        """Processes with a multiple of `share_multiple` samples each draw, together, what one draws for them
        all."""
        schedule = self.make()
        segments = self.segments(schedule)
        share = 4 * schedule.share_multiple(len(segments))
        whole, halves = torch.zeros(2 * share, dtype=torch.int64), torch.zeros(2 * share, dtype=torch.int64)
        for found, size, starts in ((whole, 2 * share, (0,)), (halves, share, (0, share))):
            for start in starts:
                drawn = schedule.draw(
                    segments,
                    size,
                    generator=[keyed_generator("sample", start + i) for i in range(size)],
                    stage_generator=keyed_generator("stage", 3),
                    train_t_max=[self.t_max] * len(segments),
                    time_law=Uniform(),
                    dtype=torch.float32,
                    device="cpu",
                )
                for draw in drawn:
                    rows = torch.arange(size) if draw.index is None else draw.index
                    found[start + rows] = draw.segment.index
        assert torch.equal(whole, halves)

    def test_weights_are_not_negative(self) -> None:
        """And at least one scale trains."""
        weights = [self.make().scale_weight(k, self.levels) for k in range(self.levels)]
        assert all(w >= 0 for w in weights)
        assert any(w > 0 for w in weights)
