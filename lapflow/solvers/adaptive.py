"""Adaptive Runge-Kutta solvers of torchdiffeq (Chen 2018), one solve per segment.

What is set here and why: the state is integrated in at least float32 (in bf16 the methods are silently
wrong); the segment's end is a point that the stepper must hit (`step_t`), since it otherwise steps past it
and interpolates back; a bound on evaluations, and a check of every evaluation, end a solve that would not end
well. The error norm spans the batch, so a sample's steps depend on the others in its batch: report the
evaluations with the batch size.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field as Setting
from torch import Tensor
from torchdiffeq import odeint

from lapflow.core.errors import SolverError
from lapflow.core.field import Field
from lapflow.core.intervals import Segment
from lapflow.core.solver import History, Observer, Solver, Statistics
from lapflow.core.state import State, StateView
from lapflow.util.random import Generators


class Adaptive(Solver[Field]):
    """An embedded pair with step control; a subclass names torchdiffeq's `method`."""

    method: ClassVar[str]

    def __init__(
        self,
        *,
        rtol: Annotated[float, Setting(gt=0, description="relative tolerance of the local error")] = 1e-5,
        atol: Annotated[float, Setting(gt=0, description="absolute tolerance of the local error")] = 1e-5,
        max_evaluations: Annotated[
            int, Setting(ge=8, description="stop with an error after this many evaluations of a segment")
        ] = 10_000,
    ) -> None:
        self.rtol, self.atol, self.max_evaluations = rtol, atol, max_evaluations

    def solve(
        self,
        field: Field,
        state: StateView,
        segment: Segment,
        generator: Generators | None = None,
        observe: Observer | None = None,
        history: History | None = None,
    ) -> tuple[State, Statistics]:
        dtypes = {k: x.dtype for k, x in state.items()}
        wide = tuple(x if x.dtype == torch.float64 else x.float() for x in state.values())
        stop = min(segment.stop, field.solve_t_max)
        times = torch.tensor([segment.sampling_start, stop], dtype=torch.float64, device=wide[0].device)
        function = _Function(self, field, segment, tuple(state), observe)
        options = {"step_t": times[1:], "dtype": torch.float64}
        try:
            with warnings.catch_warnings():
                # torchdiffeq warns of callbacks a method lacks; the methods here have the ones used.
                warnings.simplefilter("ignore", UserWarning)
                path = odeint(
                    function, wide, times, rtol=self.rtol, atol=self.atol, method=self.method, options=options
                )
        except AssertionError as error:
            raise SolverError(
                f"{self.method} cannot go on in segment {segment.index}: {error}",
                expected=f"a step that meets rtol {self.rtol:g}, atol {self.atol:g}",
                remedy="loosen the tolerances, or use a fixed-step solver",
            ) from None
        final = {k: x[-1].to(dtypes[k]) for k, x in zip(state, path)}
        if observe is not None:
            observe(stop, final)
        return final, Statistics(function.evaluations, function.accepted, function.rejected)


@dataclass
class _Function:
    """The field as torchdiffeq wants it, counting and guarding. Its callbacks are found by name."""

    solver: Adaptive
    field: Field
    segment: Segment
    scales: tuple[int, ...]
    observe: Observer | None
    evaluations: int = 0
    accepted: int = 0
    rejected: int = 0

    def __call__(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.evaluations >= self.solver.max_evaluations:
            raise SolverError(
                f"{self.solver.method} met its bound on the work in segment {self.segment.index} at t = "
                f"{float(t):.6g}",
                got=f"{self.evaluations} evaluations",
                expected=f"the end t = {self.segment.stop:g} within solver.max_evaluations",
                remedy="loosen rtol and atol, raise max_evaluations, or use a fixed-step solver",
            )
        self.evaluations += 1
        # Only the choice of the first step may look past the segment's end, where the field is not defined.
        time = min(max(float(t), self.segment.sampling_start), self.segment.stop, self.field.solve_t_max)
        velocity = self.field.velocity(dict(zip(self.scales, state)), time)
        for k, v in velocity.items():
            if not bool(torch.isfinite(v).all()):
                raise SolverError(
                    f"the velocity of scale {k} is not finite in segment {self.segment.index} at t = "
                    f"{time:.6g}",
                    expected="finite values",
                    remedy="lower the guidance scale, evaluate in float32, or look for a diverged training "
                    "run",
                )
        return tuple(velocity.values())

    def callback_accept_step(self, t: Tensor, state: tuple[Tensor, ...], dt: Tensor) -> None:
        if self.observe is not None and self.accepted:
            self.observe(float(t), dict(zip(self.scales, state)))
        self.accepted += 1

    def callback_reject_step(self, t: Tensor, state: tuple[Tensor, ...], dt: Tensor) -> None:
        self.rejected += 1


class Dopri5(Adaptive):
    """Dormand & Prince 5(4), order 5: the usual choice, and the paper's."""

    method, order = "dopri5", 5


class Dopri8(Adaptive):
    """Dormand & Prince 8(7), order 8: for tight tolerances."""

    method, order = "dopri8", 8


class Bosh3(Adaptive):
    """Bogacki & Shampine 3(2), order 3: cheap at loose tolerances."""

    method, order = "bosh3", 3


class Fehlberg2(Adaptive):
    """Fehlberg 2(1), order 2."""

    method, order = "fehlberg2", 2


class AdaptiveHeun(Adaptive):
    """Heun-Euler 2(1), order 2."""

    method, order = "adaptive_heun", 2
