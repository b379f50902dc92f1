"""The solver contract: the stated order, nothing evaluated outside the segment, work counted, failures
reported."""

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
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients
from lapflow.core.solver import History, Solver
from lapflow.core.state import State
from lapflow.plugins.kits.base import Conformance, error_of, relative
from lapflow.util.random import Generators, keyed_generator, randn

FREQUENCY = 3.0


class KnownField(DenoiserField):
    """Two scales with a known solution: x_1' = -x_1 + cos(3 t), which is linear, and x_0' = -2 t x_0^2, which
    is not."""

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
        alpha, sigma, one = (torch.tensor(v, dtype=torch.float64) for v in (t, 1 - t, 1.0))
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


class SolverConformance(Conformance):
    """A method with an argument `steps` is fitted for its order; another must reach `tolerance` as made.

    `deterministic = False` for a method that draws: it is held to its statistics and its bounds only. One
    that needs other heads of the network gives fields with them, by `field` and `broken_field`.
    """

    kind = "solver"
    tolerance: ClassVar[float] = 1e-4
    deterministic: ClassVar[bool] = True
    axes: ClassVar[int] = 2
    segment: ClassVar[Segment] = Segment(0, 0.25, 0.75, {1: 0.0, 0: 0.25})

    def make(self) -> Solver:
        raise NotImplementedError("override make() to return the solver under test")

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

    def error(self, solver: Solver, border: float | None = None) -> float:
        """The relative error at the segment's stop; with a `border`, of two solves that share a history."""
        got, history = self.start(), solver.start_history()
        ends = [self.segment.start, *([] if border is None else [border]), self.segment.stop]
        for start, stop in itertools.pairwise(ends):
            field = self.field()
            field.segment = replace(self.segment, start=start, stop=stop)
            got, _ = solver.solve(field, got, field.segment, keyed_generator("solver"), None, history)
        want = KnownField.exact(self.start(), self.segment.start, self.segment.stop)
        return max(relative(got[k], want[k]) for k in want)

    def test_it_converges_at_its_order(self) -> None:
        """The error falls as steps^-order (fitted), or is within `tolerance` for a method that chooses its
        steps."""
        if not self.deterministic:
            return
        if self.with_steps(4) is None:
            assert self.error(self.make()) <= self.tolerance
            return
        self.require_order(None)

    def test_a_history_that_is_kept_across_a_border_keeps_the_order(self) -> None:
        """Two segments with unequal steps, under a field that is smooth across their border."""
        if self.make().start_history() is not None and self.with_steps(4) is not None:
            self.require_order(0.4)

    def require_order(self, border: float | None) -> None:
        errors = []
        for steps in (8, 16, 32, 64):
            solver = self.with_steps(steps)
            assert solver is not None
            errors.append(self.error(solver, border))
        rates = [math.log2(a / b) for a, b in itertools.pairwise(errors) if b > 1e-13]
        order = self.make().order
        assert rates
        assert abs(rates[-1] - order) <= 0.35, f"order {order} stated, errors {errors} fall at {rates}"

    def test_a_history_without_scales_is_a_new_one(self) -> None:
        """After `keep(())` a solve gives what it gives without a history; what it kept changes the result."""
        solver = self.make()
        if (history := solver.start_history()) is None:
            return
        plain, kept = self.solved(solver, None), [self.solved(solver, history) for _ in range(2)][1]
        assert any(not torch.equal(plain[k], kept[k]) for k in plain), "the history is not used"
        history.keep(())
        assert all(torch.equal(plain[k], x) for k, x in self.solved(solver, history).items())

    def solved(self, solver: Solver, history: History | None) -> State:
        generator = keyed_generator("solver")
        return solver.solve(self.field(), self.start(), self.segment, generator, None, history)[0]

    def test_two_solves_may_interleave(self) -> None:
        """Nothing of a solve stays on the solver: another one between two steps changes nothing."""
        solver = self.make()
        plain = self.solved(self.make(), None)
        between: list[State] = []

        def solve_once(t: float, state: State) -> None:
            if not between:
                between.append(self.solved(solver, None))

        got, _ = solver.solve(self.field(), self.start(), self.segment, keyed_generator("solver"), solve_once)
        assert all(torch.equal(plain[k], x) for state in (got, *between) for k, x in state.items())

    def test_after_an_edit_the_solver_starts_anew(self) -> None:
        """What an observer puts in the state's place half way is solved as from the start of a segment."""
        whole, half = self.with_steps(4), self.with_steps(2)
        if whole is None or half is None or not (whole.steered and self.deterministic):
            return
        middle = (self.segment.start + self.segment.stop) / 2

        def edit(t: float, state: State) -> None:
            if t == middle:
                state.update({k: 2 * x for k, x in self.start().items()})

        got, _ = whole.solve(self.field(), self.start(), self.segment, keyed_generator("solver"), edit)
        field = self.field()
        field.segment = replace(self.segment, start=middle)
        want, _ = half.solve(field, {k: 2 * x for k, x in self.start().items()}, field.segment)
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
        self.make().solve(field, self.start(), self.segment, keyed_generator("solver"))
        assert field.times
        assert all(self.segment.start <= t <= self.segment.stop for t in field.times)

    def test_statistics_count_the_work(self) -> None:
        """`evaluations` is the number of calls of the field; steps are counted; an observer sees each of them
        and the end."""
        field, seen = self.field(), []
        state, statistics = self.make().solve(
            field,
            self.start(),
            self.segment,
            keyed_generator("solver"),
            lambda t, x: seen.append((t, {k: v.clone() for k, v in x.items()})),
        )
        assert statistics.evaluations == len(field.times)
        assert statistics.steps == len(seen) >= 1
        assert statistics.rejected >= 0
        times = [t for t, _ in seen]
        assert times == sorted(set(times))
        assert times[-1] == self.segment.stop
        assert times[0] > self.segment.start
        assert all(torch.equal(seen[-1][1][k], state[k]) for k in state)

    def test_an_observer_steers_where_the_solver_says_so(self) -> None:
        """What an observer puts in the state's place at a step is what the next step starts from; at the
        last, the result."""
        if not (solver := self.make()).steered:
            return
        seen: list[State] = []

        def keep_ones(t: float, state: State) -> None:
            seen.append(dict(state))
            state.update({k: torch.ones_like(x) for k, x in state.items()})

        final, _ = solver.solve(
            KnownField(self.segment), self.start(), self.segment, keyed_generator("solver"), keep_ones
        )
        plain: list[State] = []
        self.make().solve(
            KnownField(self.segment),
            self.start(),
            self.segment,
            keyed_generator("solver"),
            lambda t, x: plain.append(dict(x)),
        )
        assert all(bool((x == 1).all()) for x in final.values())
        assert all(torch.equal(seen[0][k], plain[0][k]) for k in final)
        assert len(seen) == 1 or any(not torch.equal(seen[1][k], plain[1][k]) for k in final)

    def test_the_state_keeps_its_form(self) -> None:
        """Scales in order, shapes and dtypes as they came; the state that was given is not written to."""
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            state = self.start(dtype)
            kept = {k: x.clone() for k, x in state.items()}
            out, _ = self.make().solve(self.field(), state, self.segment, keyed_generator("solver"))
            assert list(out) == list(state)
            assert all(
                out[k].shape == x.shape and out[k].dtype == x.dtype and torch.equal(state[k], kept[k])
                for k, x in state.items()
            )

    def test_it_is_repeatable(self) -> None:
        """The same generator gives the same result."""
        first, _ = self.make().solve(self.field(), self.start(), self.segment, keyed_generator("solver"))
        again, _ = self.make().solve(self.field(), self.start(), self.segment, keyed_generator("solver"))
        assert all(torch.equal(first[k], again[k]) for k in first)

    def test_fixed_work_does_not_depend_on_the_state(self) -> None:
        """A solver that says so evaluates at the same times whatever the field gives."""
        solver, times = self.make(), []
        for scale in (1.0, 0.3):
            field = self.field()
            solver.solve(
                field,
                {k: scale * x for k, x in self.start().items()},
                self.segment,
                keyed_generator("solver"),
            )
            times.append(field.times)
        assert not solver.fixed_work or times[0] == times[1]

    def test_a_non_finite_field_is_an_error(self) -> None:
        """A SolverError, not a picture of NaN."""
        error_of(
            SolverError,
            lambda: self.make().solve(
                self.broken_field(), self.start(), self.segment, keyed_generator("solver")
            ),
        )
