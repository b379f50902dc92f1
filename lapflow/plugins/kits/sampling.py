"""The kits of what samples: solver and guidance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.backbone import MAIN, Heads
from lapflow.core.errors import SolverError
from lapflow.core.field import DenoiserField, Endpoints, Field
from lapflow.core.guidance import Guidance
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients
from lapflow.core.solver import History, Observer, Solver, Statistics
from lapflow.core.state import State, map_state, scalar_time
from lapflow.plugins.kits.base import Conformance, equal, error_of, near, normal, relative
from lapflow.util.random import Generators, keyed_generator, randn

FREQUENCY = 3.0


class KnownField(DenoiserField):
    """Two scales with a known solution: x_1' = -x_1 + cos(3 t), linear, and x_0' = -2 t x_0^2, not."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.times: list[float] = []

    def velocity(self, state: Mapping[int, Tensor], t: float) -> State:
        self.times.append(t)
        return {1: -state[1] + math.cos(FREQUENCY * t), 0: -2 * t * state[0].square()}

    def predict(self, state: Mapping[int, Tensor], t: float) -> Heads:
        return {MAIN: self.velocity(state, t)}

    def endpoints(self, state: Mapping[int, Tensor], t: float) -> Endpoints:
        """The pair on the straight path alpha = t, sigma = 1 - t that has this velocity at the state."""
        velocity = self.velocity(state, t)
        data = {k: x + (1 - t) * velocity[k] for k, x in state.items()}
        return Endpoints(data, {k: x - t * velocity[k] for k, x in state.items()})

    def alpha_sigma(self, t: float) -> dict[int, Coefficients]:
        alpha, sigma, one = map(scalar_time, (t, 1 - t, 1.0))
        return dict.fromkeys((1, 0), Coefficients(alpha, sigma, one, -one))

    def noise(self, bands: Mapping[int, Tensor], generator: Generators | None) -> State:
        assert generator is not None, "the generator is handed on to the field"
        return {k: randn(x.shape, generator, dtype=x.dtype, device=x.device) for k, x in bands.items()}

    @staticmethod
    def exact(state: Mapping[int, Tensor], start: float, stop: float) -> State:
        def forced(t: float) -> float:
            return (math.cos(FREQUENCY * t) + FREQUENCY * math.sin(FREQUENCY * t)) / (1 + FREQUENCY**2)

        linear = (state[1] - forced(start)) * math.exp(start - stop) + forced(stop)
        return {1: linear, 0: 1 / (1 / state[0] + stop**2 - start**2)}


class PlainField(Field):
    """Velocities and no more."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment

    def velocity(self, state: Mapping[int, Tensor], t: float) -> State:
        return dict(state)


class BrokenField(KnownField):
    """Turns non-finite half way."""

    def velocity(self, state: Mapping[int, Tensor], t: float) -> State:
        bad = float("nan") if t > (self.segment.start + self.segment.stop) / 2 else 1.0
        return {k: v * bad for k, v in super().velocity(state, t).items()}


class SolverConformance(Conformance[Solver]):
    """The stated order, nothing evaluated outside the segment, work counted, failures reported.

    A method with an argument `steps` is fitted for its order; another must reach `tolerance` as made.
    `deterministic = False` for a method that draws: it is held to its statistics and its bounds only. One
    that needs other heads of the network gives fields with them, by `field` and `broken_field`.
    """

    kind = "solver"
    tolerance: ClassVar[float] = 1e-4
    deterministic: ClassVar[bool] = True
    axes: ClassVar[int] = 2
    segment: ClassVar[Segment] = Segment(0, 0.25, 0.75, {1: 0.0, 0: 0.25})

    def field(self) -> KnownField:
        """The field that is solved; it keeps the `times` at which it was evaluated."""
        return KnownField(self.segment)

    def broken_field(self) -> KnownField:
        """One that turns non-finite half way."""
        return BrokenField(self.segment)

    def with_steps(self, steps: int) -> Solver | None:
        """The solver with another number of steps; None if it has no such argument."""
        solver = self.make()
        if "steps" not in type(solver).schema().model_fields:
            return None
        return type(solver)(**{**solver.config, "steps": steps})

    def start(self, dtype: torch.dtype = torch.float64) -> State:
        values = torch.linspace(0.4, 1.6, 8, dtype=torch.float64)
        sizes = {1: (4,), 2: (2, 2), 3: (1, 2, 2)}[self.axes]
        coarse = values[:2].reshape(2, 1, *[1] * self.axes)
        return {1: coarse.to(dtype), 0: values.reshape(2, 1, *sizes).to(dtype)}

    def solve(
        self,
        solver: Solver,
        field: KnownField | None = None,
        state: State | None = None,
        observe: Observer | None = None,
        history: History | None = None,
    ) -> tuple[State, Statistics]:
        """Over the field's segment, by default from `start` and with the same draws each time."""
        field = field or self.field()
        generator = keyed_generator("solver")
        return solver.solve(field, state or self.start(), field.segment, generator, observe, history)

    def error(self, solver: Solver, border: float | None = None) -> float:
        """The relative error at the segment's stop; with a `border`, of two solves that share a history."""
        got, history = self.start(), solver.start_history()
        ends = [self.segment.start, *([] if border is None else [border]), self.segment.stop]
        for start, stop in itertools.pairwise(ends):
            field = self.field()
            field.segment = replace(self.segment, start=start, stop=stop)
            got, _ = self.solve(solver, field, got, None, history)
        want = KnownField.exact(self.start(), self.segment.start, self.segment.stop)
        return max(relative(got[k], want[k]) for k in want)

    def test_it_converges_at_its_order(self) -> None:
        """The error falls as steps^-order (fitted), or is within `tolerance` for adaptive methods."""
        if self.deterministic and self.with_steps(4) is None:
            assert self.error(self.make()) <= self.tolerance
        elif self.deterministic:
            self.require_order()

    def test_a_history_that_is_kept_across_a_border_keeps_the_order(self) -> None:
        """Two segments with unequal steps, under a field that is smooth across their border."""
        if self.make().start_history() is not None and self.with_steps(4) is not None:
            self.require_order(0.4)

    def require_order(self, border: float | None = None) -> None:
        solvers = [self.with_steps(steps) for steps in (8, 16, 32, 64)]
        errors = [self.error(solver, border) for solver in solvers if solver is not None]
        rates = [math.log2(a / b) for a, b in itertools.pairwise(errors) if b > 1e-13]
        order = self.make().order
        assert rates
        assert abs(rates[-1] - order) <= 0.35, f"order {order} stated, errors {errors} fall at {rates}"

    def test_a_history_without_scales_is_a_new_one(self) -> None:
        """After `keep(())` a solve gives what it gives without a history; what it kept changes the result."""
        solver = self.make()
        if (history := solver.start_history()) is None:
            return
        plain, _ = self.solve(solver)
        _, (kept, _) = (self.solve(solver, history=history) for _ in range(2))
        assert not equal(kept, plain), "the history is not used"
        history.keep(())
        assert equal(self.solve(solver, history=history)[0], plain)

    def test_two_solves_may_interleave(self) -> None:
        """Nothing of a solve stays on the solver: another one between two steps changes nothing."""
        solver = self.make()
        plain, _ = self.solve(self.make())
        between: list[State] = []

        def solve_once(t: float, state: State) -> None:
            if not between:
                between.append(self.solve(solver)[0])

        got, _ = self.solve(solver, observe=solve_once)
        assert all(equal(plain, state) for state in (got, *between))

    def test_after_an_edit_the_solver_starts_anew(self) -> None:
        """What an observer puts in the state's place half way is solved as from the start of a segment."""
        whole, half = self.with_steps(4), self.with_steps(2)
        if whole is None or half is None or not (whole.steered and self.deterministic):
            return
        middle = (self.segment.start + self.segment.stop) / 2

        def edit(t: float, state: State) -> None:
            if t == middle:
                state.update(map_state(lambda x: 2 * x, self.start()))

        got, _ = self.solve(whole, observe=edit)
        field = self.field()
        field.segment = replace(self.segment, start=middle)
        want, _ = half.solve(field, map_state(lambda x: 2 * x, self.start()), field.segment)
        assert all(relative(got[k], want[k]) <= 1e-12 for k in want)

    def test_a_field_without_what_the_solver_needs_is_refused(self) -> None:
        """`require_field` takes the field under test, and refuses velocities alone unless they are enough."""
        solver = self.make()
        solver.require_field(self.field())
        if issubclass(PlainField, solver.needs):
            solver.require_field(PlainField(self.segment))
        else:
            error_of(SolverError, lambda: solver.require_field(PlainField(self.segment)))

    def test_nothing_is_evaluated_outside_the_segment(self) -> None:
        """Every time is in [start, stop], the ends exact."""
        field = self.field()
        self.solve(self.make(), field)
        assert field.times
        assert all(self.segment.start <= t <= self.segment.stop for t in field.times)

    def test_statistics_count_the_work(self) -> None:
        """`evaluations` are the calls of the field; steps are counted; an observer sees each, and the end."""
        field, seen = self.field(), list[tuple[float, State]]()
        state, statistics = self.solve(
            self.make(), field, observe=lambda t, x: seen.append((t, map_state(torch.clone, x)))
        )
        assert statistics.evaluations == len(field.times)
        assert statistics.steps == len(seen) >= 1
        assert statistics.rejected >= 0
        times = [t for t, _ in seen]
        assert times == sorted(set(times))
        assert times[-1] == self.segment.stop
        assert times[0] > self.segment.start
        assert equal(seen[-1][1], state)

    def test_an_observer_steers_where_the_solver_says_so(self) -> None:
        """What an observer puts in the state's place is what the next step starts from, or the result."""
        if not (solver := self.make()).steered:
            return
        seen, plain = list[State](), list[State]()

        def keep_ones(t: float, state: State) -> None:
            seen.append(dict(state))
            state.update(map_state(torch.ones_like, state))

        final, _ = self.solve(solver, KnownField(self.segment), observe=keep_ones)
        self.solve(self.make(), KnownField(self.segment), observe=lambda t, x: plain.append(dict(x)))
        assert all(bool((x == 1).all()) for x in final.values())
        assert all(torch.equal(seen[0][k], plain[0][k]) for k in final)
        assert len(seen) == 1 or any(not torch.equal(seen[1][k], plain[1][k]) for k in final)

    def test_the_state_keeps_its_form(self) -> None:
        """Scales in order, shapes and dtypes as they came; the state that was given is not written to."""
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            state, kept = self.start(dtype), self.start(dtype)
            out, _ = self.solve(self.make(), state=state)
            assert list(out) == list(kept)
            assert all(out[k].shape == x.shape and out[k].dtype == x.dtype for k, x in kept.items())
            assert equal(state, kept)

    def test_it_is_repeatable(self) -> None:
        """The same generator gives the same result."""
        first, again = (self.solve(self.make())[0] for _ in range(2))
        assert equal(again, first)

    def test_fixed_work_does_not_depend_on_the_state(self) -> None:
        """A solver that says so evaluates at the same times whatever the field gives."""
        solver, times = self.make(), []
        for scale in (1.0, 0.3):
            field = self.field()
            self.solve(solver, field, {k: scale * x for k, x in self.start().items()})
            times.append(field.times)
        assert not solver.fixed_work or times[0] == times[1]

    def test_a_non_finite_field_is_an_error(self) -> None:
        """A SolverError, not a picture of NaN."""
        error_of(SolverError, lambda: self.solve(self.make(), self.broken_field()))


class GuidanceConformance(Conformance[Guidance]):
    """The scales that came, equal predictions left alone; `make()`'s guidance is for `levels` scales."""

    kind = "guidance"
    levels: ClassVar[int] = 2

    def prediction(self, key: str, active: int) -> State:
        scales = list(reversed(range(self.levels)))[:active]
        return {k: normal(2, 4, 4 >> k, 4 >> k, key=(key, k)) for k in scales}

    def test_active_is_an_answer_at_every_time(self) -> None:
        """A bool at every time."""
        assert all(isinstance(self.make().active(i / 8), bool) for i in range(9))

    def test_the_scales_that_came_in_their_order(self) -> None:
        """For every number of active scales, shapes and dtypes kept."""
        for active in range(1, self.levels + 1):
            conditional, unconditional = self.prediction("c", active), self.prediction("u", active)
            out = self.make().combine(conditional, unconditional, self.levels)
            assert list(out) == list(conditional)
            assert all(out[k].shape == x.shape and out[k].dtype == x.dtype for k, x in conditional.items())

    def test_equal_predictions_are_left_alone(self) -> None:
        """Where the condition makes no difference, there is nothing to guide."""
        v = self.prediction("c", self.levels)
        assert near(self.make().combine(v, v, self.levels), v, 1e-12)

    def test_it_shifts_with_both_predictions(self) -> None:
        """Adding one field to both adds it to the result."""
        guidance = self.make()
        c, u, w = (self.prediction(key, self.levels) for key in "cuw")
        plain = guidance.combine(c, u, self.levels)
        moved = guidance.combine(map_state(torch.add, c, w), map_state(torch.add, u, w), self.levels)
        assert near(moved, map_state(torch.add, w, plain), 1e-10)
