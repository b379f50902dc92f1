"""The kits of what training draws: noise, couplings, times, and the segments that they lie in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.coupling import Coupling
from lapflow.core.decomposition import Decomposition
from lapflow.core.intervals import Draw, IntervalSchedule, Segment
from lapflow.core.noise import Noise
from lapflow.core.state import Shape, State
from lapflow.core.time_law import TimeLaw, Uniform
from lapflow.plugins.kits.base import Conformance, equal, normal, relative
from lapflow.util.random import Generators, keyed_generator


class NoiseConformance(Conformance[Noise]):
    """`decomposition` is the context in which the noise is made; `shape` (c, *sizes) that of a sample."""

    kind = "noise"
    made = ", of self.decomposition"
    decomposition: ClassVar[Decomposition]
    shape: ClassVar[Shape] = (1, 8, 8)

    def white(self, rows: int, key: int) -> State:
        shapes = self.make().white_shapes(self.shape)
        return {k: normal(rows, *shape, key=(key, k)) for k, shape in shapes.items()}

    def test_it_is_a_linear_map_of_white_draws(self) -> None:
        """So that the law check can compare operators."""
        noise, a, b = self.make(), self.white(2, 0), self.white(2, 1)
        both = noise.from_white({k: 2 * a[k] - 3 * b[k] for k in a})
        first, second = noise.from_white(a), noise.from_white(b)
        assert all(relative(both[k], 2 * first[k] - 3 * second[k]) <= 1e-12 for k in both)

    def test_it_has_the_shapes_of_the_bands(self) -> None:
        """Every band, coarse to fine."""
        found, bands = self.make().from_white(self.white(2, 0)), self.decomposition.bands(self.shape)
        assert list(found) == list(bands)
        assert all(tuple(found[k].shape[1:]) == bands[k].shape for k in bands)

    def test_stds_are_as_stated(self) -> None:
        """White noise in a band has `direction_std` in the directions of its range, `dead_std` outside."""
        noise = self.make()
        if not noise.white:
            return
        for k, band in self.decomposition.bands(self.shape).items():
            columns = self._columns(noise, k)
            inside = self.decomposition.project(columns, k)
            outside = (columns - inside).flatten(1)
            inside = inside.flatten(1)
            found = torch.linalg.eigvalsh(inside.T @ inside).clamp(min=0).sqrt()
            alive = found[found > 1e-6 * found.max()]
            assert relative(alive, torch.full_like(alive, noise.direction_std(band))) <= 1e-9, f"band {k}"
            if dimensions := inside.shape[1] - len(alive):
                dead = float((outside.square().sum() / dimensions).sqrt())
                assert abs(dead - noise.dead_std(band)) <= 1e-9, f"outside the range of band {k}"

    def _columns(self, noise: Noise, scale: int) -> Tensor:
        """The band of each white draw set to 1 in turn: the columns of the linear map."""
        columns = []
        shapes = noise.white_shapes(self.shape)
        for k, shape in shapes.items():
            identity = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).reshape(-1, *shape)
            zeros = {j: torch.zeros(len(identity), *s, dtype=torch.float64) for j, s in shapes.items()}
            columns.append(noise.from_white({**zeros, k: identity})[scale])
        return torch.cat(columns)

    def test_draws_are_a_function_of_the_generator(self) -> None:
        """The same generator gives the same pyramid."""
        first, again, other = (
            self.make().draw(self.shape, 3, keyed_generator("noise", i), dtype=torch.float32, device="cpu")
            for i in (0, 0, 1)
        )
        assert equal(again, first)
        assert not any(torch.equal(first[k], other[k]) for k in first)


class CouplingConformance(Conformance[Coupling]):
    """Pairs are those of `batch` samples of `shape` (c, *sizes)."""

    kind = "coupling"
    batch: ClassVar[int] = 12
    shape: ClassVar[Shape] = (1, 4, 4)

    def pairs(self, groups: Tensor | None = None) -> Tensor:
        data, noise = (normal(self.batch, *self.shape, key=key) for key in ("data", "noise"))
        found = self.make().pair(data, noise, groups)
        return torch.arange(self.batch) if found is None else found

    def test_it_is_a_permutation(self) -> None:
        """Every row of the noise is used once."""
        assert sorted(self.pairs().tolist()) == list(range(self.batch))

    def test_noise_stays_in_its_group(self) -> None:
        """And within a group it is permuted."""
        groups = torch.arange(self.batch) % 3
        found = self.pairs(groups)
        assert sorted(found.tolist()) == list(range(self.batch))
        assert torch.equal(groups[found], groups)

    def test_it_is_a_pure_function(self) -> None:
        """A resumed run makes the same pairs."""
        assert torch.equal(self.pairs(), self.pairs())


class TimeLawConformance(Conformance[TimeLaw]):
    """`levels` is the number of scales of the composition that `make()`'s law is for."""

    kind = "time_law"
    levels: ClassVar[int] = 2

    def test_times_rise_within_the_unit_interval(self) -> None:
        """In each dtype, from u = 0 on."""
        for dtype in (torch.float32, torch.float64):
            u = torch.linspace(0, 1, 1001, dtype=dtype)[:-1]
            for scale in range(self.levels):
                t = self.make().quantile(u, scale, self.levels)
                assert t.dtype == dtype
                assert bool(((t >= 0) & (t <= 1)).all())
                assert bool((t.diff() >= 0).all())

    def test_the_density_is_that_of_the_quantiles(self) -> None:
        """Between any two quantiles lies their share of the probability, by Gauss-Legendre of order 20."""
        import numpy as np

        u = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
        nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(20))
        for scale in range(self.levels):
            t = self.make().quantile(u, scale, self.levels)
            half, middle = t.diff()[:, None] / 2, (t[1:] + t[:-1])[:, None] / 2
            density = self.make().density(middle + half * nodes, scale, self.levels)
            assert bool((density >= 0).all())
            mass = (density * weights * half).sum(1)
            assert (mass - u.diff()).abs().max() <= 1e-8, f"scale {scale}"

    def test_it_fits_its_composition(self) -> None:
        """`require` passes for the kit's number of scales."""
        self.make().require(self.levels)


class IntervalsConformance(Conformance[IntervalSchedule]):
    """`levels` is the number of scales that `make()`'s schedule is for, `contractions` those of their
    decomposition; `t_max` the path's last time in draws."""

    kind = "intervals"
    levels: ClassVar[int] = 2
    contractions: ClassVar[Sequence[float] | None] = None
    batch: ClassVar[int] = 64
    t_max: ClassVar[float] = 0.999

    def segments(self, schedule: IntervalSchedule) -> tuple[Segment, ...]:
        return schedule.segments(self.levels, self.contractions)

    def draw(
        self,
        schedule: IntervalSchedule,
        batch: int,
        generator: Generators,
        stage: int,
        dtype: torch.dtype = torch.float32,
    ) -> list[Draw]:
        """A batch's draws; `stage` keys what is common to the processes."""
        segments = self.segments(schedule)
        return schedule.draw(
            segments,
            batch,
            generator=generator,
            stage_generator=keyed_generator("stage", stage),
            train_t_max=[self.t_max] * len(segments),
            time_law=Uniform(),
            dtype=dtype,
            device="cpu",
        )

    def draws(self, key: int, dtype: torch.dtype = torch.float32) -> list[Draw]:
        return self.draw(self.make(), self.batch, keyed_generator("sample", key), key, dtype)

    def test_segments_partition_the_clock(self) -> None:
        """In time order from 0 to 1 without gap or overlap, indexed from 0."""
        segments = self.segments(self.make())
        assert [s.index for s in segments] == list(range(len(segments)))
        assert segments[0].start == 0
        assert segments[-1].stop == 1
        assert all(before.stop == after.start for before, after in itertools.pairwise(segments))
        assert all(s.start < s.stop for s in segments)

    def test_scales_join_coarse_to_fine(self) -> None:
        """The coarsest scales are active, coarse to fine; a scale stays; all are active at the end."""
        segments = self.segments(self.make())
        every = list(reversed(range(self.levels)))
        for s in segments:
            assert list(s.scales) == every[: len(s.scales)], f"segment {s.index}"
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
                assert (grid[0], grid[-1]) == (segment.start, segment.stop)
                assert all(a < b for a, b in itertools.pairwise(grid))

    def test_each_sample_is_in_exactly_one_draw(self) -> None:
        """The draws' indices cover the batch without overlap."""
        for key in range(8):
            found = torch.cat([rows_of(draw, self.batch) for draw in self.draws(key)])
            assert sorted(found.tolist()) == list(range(self.batch))
            for draw in self.draws(key):
                assert isinstance(draw.t, Tensor) or self.make().times_per_scale
                assert all(t.shape == rows_of(draw, self.batch).shape for t in drawn_times(draw))

    def test_times_lie_in_the_segment_s_domain(self) -> None:
        """Every time is in [segment.start, end), a scale's own in [0, end); every segment is drawn from."""
        seen: set[int] = set()
        for key, dtype in itertools.product(range(24), (torch.float32, torch.float64)):
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
        """A schedule that says so trains the same segments in every process, each with as many samples."""
        schedule = self.make()
        chosen: list[list[tuple[Segment, int]]] = []
        for rank in range(6):
            drawn = self.draw(schedule, self.batch, keyed_generator("rank", rank), 3)
            chosen.append([(draw.segment, len(drawn_times(draw)[0])) for draw in drawn])
        same = all(other == chosen[0] for other in chosen)
        assert same or not schedule.common
        assert not same or schedule.common or len(self.segments(schedule)) == 1, (
            "its segments are common to the processes: set common"
        )

    def test_a_share_is_drawn_as_its_part_of_the_batch(self) -> None:
        """Processes with a multiple of `share_multiple` samples each draw together what one draws for all."""
        schedule = self.make()
        share = 4 * schedule.share_multiple(len(self.segments(schedule)))
        whole, halves = torch.zeros(2, 2 * share, dtype=torch.int64)
        for found, size, start in ((whole, 2 * share, 0), (halves, share, 0), (halves, share, share)):
            generators = [keyed_generator("sample", start + i) for i in range(size)]
            for draw in self.draw(schedule, size, generators, 3):
                found[start + rows_of(draw, size)] = draw.segment.index
        assert torch.equal(whole, halves)

    def test_weights_are_not_negative(self) -> None:
        """And at least one scale trains."""
        weights = [self.make().scale_weight(k, self.levels) for k in range(self.levels)]
        assert all(w >= 0 for w in weights)
        assert any(w > 0 for w in weights)


def rows_of(draw: Draw, batch: int) -> Tensor:
    """The samples of a draw."""
    return torch.arange(batch) if draw.index is None else draw.index


def drawn_times(draw: Draw) -> list[Tensor]:
    """The shared time of a draw, or that of each scale, coarse to fine."""
    return [draw.t] if isinstance(draw.t, Tensor) else [draw.t[k] for k in draw.segment.scales]


def first_time(segment: Segment, scale: int) -> float:
    """The path's variable of a scale at the segment's start."""
    window = segment.of(scale).window
    return window[0] if window else segment.start
