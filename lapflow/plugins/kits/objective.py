"""The objective contract: named scalar losses, each a mean over the samples, with gradients for the heads."""

from __future__ import annotations

from typing import ClassVar

import torch

from lapflow.core.backbone import Heads
from lapflow.core.flow import Flow, TrainingPoint
from lapflow.core.objective import Objective
from lapflow.core.random import keyed_generator
from lapflow.plugins.kits.base import Conformance, normal
from lapflow.plugins.registry import create


class ObjectiveConformance(Conformance):
    """`least_at_target`: the objective is least, and zero, where the heads give the target (not for adversarial ones).
    `image` is the shape (c, h, w) of the images, `heads_needed` the heads beside `main`."""

    kind = "objective"
    least_at_target: ClassVar[bool] = True
    image: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    heads_needed: ClassVar[tuple[str, ...]] = ()

    def make(self) -> Objective:
        raise NotImplementedError("override make() to return the objective under test")

    def flow(self) -> Flow:
        """The composition of the training pair: LapFlow's, of two scales."""
        others = (create(kind, name) for kind, name in (("intervals", "cumulative"), ("path", "linear"), ("bridge", "append")))
        return Flow(create("decomposition", {"name": "laplacian", "levels": 2}), *others)

    def point(self, rows: slice = slice(None)) -> TrainingPoint:
        """A training pair in the last segment; `rows` of its six samples."""
        flow, x = self.flow(), normal(6, *self.image, key="x1", dtype=torch.float32)
        generators = [keyed_generator("sample", i) for i in range(6)]
        for seed in range(100):
            point = flow.training_point(x[rows], generators[rows], keyed_generator("stage", seed))
            if len(point.segment.scales) == flow.levels:
                return point
            generators = [keyed_generator("sample", i) for i in range(6)]
        raise AssertionError("a hundred draws did not meet the last segment")

    def heads(self, rows: slice = slice(None)) -> Heads:
        """Some prediction."""
        target = self.point().target
        names = ("main", *self.heads_needed)
        return {name: {k: normal(*x.shape, key=(name, k), dtype=x.dtype)[rows] for k, x in target.items()} for name in names}

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
