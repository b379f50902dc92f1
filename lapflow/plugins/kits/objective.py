"""The objective contract: named scalar losses, each a mean over the samples, with gradients for the heads."""

from __future__ import annotations

from typing import ClassVar

import torch

from lapflow.core.backbone import Heads
from lapflow.core.flow import TrainingPoint
from lapflow.core.intervals import Segment
from lapflow.core.objective import Objective
from lapflow.core.state import State, take_rows
from lapflow.plugins.kits.base import Conformance, normal


class ObjectiveConformance(Conformance):
    """`least_at_target`: the objective is least, and zero, where the heads give the target (not for adversarial ones)."""

    kind = "objective"
    least_at_target: ClassVar[bool] = True
    shapes: ClassVar[dict[int, tuple[int, ...]]] = {1: (6, 1, 4, 4), 0: (6, 1, 8, 8)}

    def make(self) -> Objective:
        raise NotImplementedError("override make() to return the objective under test")

    def tensors(self, key: str) -> State:
        return {k: normal(*shape, key=(key, k)) for k, shape in self.shapes.items()}

    def point(self, rows: slice = slice(None)) -> TrainingPoint:
        """A training pair on the straight path at t = 0.7; `rows` of its samples."""
        segment = Segment(1, 0.5, 1.0, {1: 0.0, 0: 0.5})
        data, noise = take_rows(self.tensors("x1"), rows), take_rows(self.tensors("x0"), rows)
        state = {k: 0.7 * data[k] + 0.3 * noise[k] for k in data}
        target = {k: data[k] - noise[k] for k in data}
        t = torch.full((len(state[1]),), 0.7, dtype=torch.float64)
        return TrainingPoint(state, t, target, dict.fromkeys(self.shapes, 1.0), segment, data, noise, None, 1.0)

    def heads(self, rows: slice = slice(None)) -> Heads:
        """Some prediction; override for an objective that needs more heads than `main`."""
        return {"main": take_rows(self.tensors("prediction"), rows)}

    def test_losses_are_named_finite_scalars(self) -> None:
        """At least one, each a scalar with a name."""
        losses = self.make()(self.heads(), self.point())
        assert losses
        assert all(isinstance(name, str) and loss.ndim == 0 and bool(torch.isfinite(loss)) for name, loss in losses.items())

    def test_each_is_a_mean_over_the_samples(self) -> None:
        """A batch's loss is the mean of its halves' losses, so that accumulation does not change what is minimised."""
        objective, halves = self.make(), (slice(0, 3), slice(3, 6))
        whole = objective(self.heads(), self.point())
        parts = [objective(self.heads(rows), self.point(rows)) for rows in halves]
        for name, loss in whole.items():
            assert abs(float(loss) - sum(float(part[name]) for part in parts) / 2) <= 1e-5 * (1 + abs(float(loss)))

    def test_gradients_reach_the_heads(self) -> None:
        """At every active scale."""
        heads = {name: {k: x.clone().requires_grad_() for k, x in head.items()} for name, head in self.heads().items()}
        torch.stack(list(self.make()(heads, self.point()).values())).sum().backward()
        assert all(x.grad is not None and bool(x.grad.any()) for x in heads["main"].values())

    def test_least_at_the_target(self) -> None:
        """Zero there and positive elsewhere, where the objective is a distance."""
        if not self.least_at_target:
            return
        point = self.point()
        at_target = sum(float(loss) for loss in self.make()({**self.heads(), "main": point.target}, point).values())
        elsewhere = sum(float(loss) for loss in self.make()(self.heads(), point).values())
        assert abs(at_target) <= 1e-9 < elsewhere
