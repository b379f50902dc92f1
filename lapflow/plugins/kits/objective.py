"""The objective contract: named scalar losses, each a mean over the samples, with gradients for the heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from lapflow.core.backbone import Backbone, Heads
from lapflow.core.condition import Condition
from lapflow.core.objective import Objective
from lapflow.core.state import State, Times
from lapflow.flows.flow import Flow, TrainingPoint
from lapflow.plugins.kits.base import Conformance, normal
from lapflow.plugins.registry import create
from lapflow.util.random import keyed_generator


class Fixed(nn.Module):
    """A network that returns the same heads whatever it is given."""

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, state: State, t: Times, condition: Condition, **options: Any) -> Heads:
        return self.heads


class ObjectiveConformance(Conformance):
    """`least_at_target`: the objective is least, and zero, where the heads give the target (not for
    adversarial ones). `image` is the shape (c, h, w) of the images, `num_classes` their classes,
    `heads_needed` the heads beside `main`, and `heads_trained` those that get a gradient at every active
    scale. Override `flow` for one that needs another composition, `heads` where a head is not shaped like the
    target."""

    kind = "objective"
    least_at_target: ClassVar[bool] = True
    image: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    num_classes: ClassVar[int] = 3
    heads_needed: ClassVar[tuple[str, ...]] = ()
    heads_trained: ClassVar[tuple[str, ...]] = ("main",)

    def make(self) -> Objective:
        raise NotImplementedError("override make() to return the objective under test")

    def flow(self) -> Flow:
        """The composition of the training pair: LapFlow's, of two scales."""
        others = (
            create(kind, name)
            for kind, name in (("intervals", "cumulative"), ("path", "linear"), ("bridge", "append"))
        )
        return Flow(create("decomposition", {"name": "laplacian", "levels": 2}), *others)

    def built(self) -> Objective:
        """The objective, the weights of its own made."""
        objective = self.make()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.build(objective)
        return objective

    def build(self, objective: Objective) -> None:
        flow = self.flow()
        objective.build(flow, flow.network_bands(self.image), self.num_classes)

    def network(self, heads: Heads) -> Backbone:
        """What the objective calls, of which the kit says what it returns. Override it for an objective that
        needs more of a network than its heads."""
        return cast(Backbone, Fixed(heads))

    def losses(self, objective: Objective, heads: Heads, point: TrainingPoint) -> Mapping[str, Tensor]:
        return objective(self.network(heads), point)

    def point(self, rows: slice = slice(None), segment: int = -1) -> TrainingPoint:
        """A training pair in a segment, by default the last; `rows` of its six samples."""
        flow, x = self.flow(), normal(6, *self.image, key="x1", dtype=torch.float32)
        labels = torch.arange(6) % self.num_classes if self.num_classes else None
        given = Condition.of(labels).rows(rows)
        for seed in range(100):
            generators = [keyed_generator("sample", i) for i in range(6)]
            stage, second = keyed_generator("stage", seed), self.make().second_time
            point = flow.training_point(x[rows], generators[rows], stage, given, second_time=second)
            if point.segment == flow.segments[segment]:
                return point
        raise AssertionError("a hundred draws did not meet the segment")

    def heads(self, rows: slice = slice(None), segment: int = -1) -> Heads:
        """Some prediction for the pair."""
        target = self.point(segment=segment).target
        names = ("main", *self.heads_needed)
        return {
            name: {k: normal(*x.shape, key=(name, k), dtype=x.dtype)[rows] for k, x in target.items()}
            for name in names
        }

    def test_losses_are_named_finite_scalars(self) -> None:
        """At least one, each a scalar with a name."""
        losses = self.losses(self.built(), self.heads(), self.point())
        assert losses
        assert all(
            isinstance(name, str) and loss.ndim == 0 and bool(torch.isfinite(loss))
            for name, loss in losses.items()
        )

    def test_each_is_a_mean_over_the_samples(self) -> None:
        """A batch's loss is the mean of its halves' losses, so that accumulation does not change what is
        minimised."""
        objective, halves = self.built(), (slice(0, 3), slice(3, 6))
        whole = self.losses(objective, self.heads(), self.point())
        parts = [self.losses(objective, self.heads(rows), self.point(rows)) for rows in halves]
        for name, loss in whole.items():
            mean = (parts[0][name] + parts[1][name]) / 2
            assert bool((loss - mean).abs() <= 1e-5 * (1 + loss.abs()))

    def test_it_draws_nothing(self) -> None:
        """The same pair gives the same losses, and the global generator is not used: a resumed run is the
        uninterrupted one."""
        objective, heads, point = self.built(), self.heads(), self.point()
        state = torch.get_rng_state()
        first, again = (self.losses(objective, heads, point) for _ in range(2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert torch.equal(torch.get_rng_state(), state), "the global generator was used"

    def test_gradients_reach_the_heads(self) -> None:
        """At every active scale."""
        heads = {
            name: {k: x.clone().requires_grad_() for k, x in head.items()}
            for name, head in self.heads().items()
        }
        sum(self.losses(self.built(), heads, self.point()).values(), torch.zeros(())).backward()
        for name in self.heads_trained:
            assert all(x.grad is not None and bool(x.grad.any()) for x in heads[name].values()), name

    def test_gradients_reach_its_own_weights(self) -> None:
        """Over all segments, every weight that the objective has of its own is trained; and all of them can
        be trained after."""
        objective = self.built()
        if objective.module is None:
            return
        for segment in range(len(self.flow().segments)):
            losses = self.losses(objective, self.heads(segment=segment), self.point(segment=segment))
            torch.stack(list(losses.values())).sum().backward()
        dead = [
            name
            for name, p in objective.module.named_parameters()
            if p.grad is None or not bool(p.grad.any())
        ]
        assert not dead, f"no gradient reaches {dead}"

    def test_its_own_weights_are_all_it_keeps(self) -> None:
        """Made again with other weights and given the first ones', it gives the same losses: what a
        checkpoint holds is enough."""
        objective, other = self.built(), self.make()
        if objective.module is None:
            return
        self.build(other)
        assert other.module is not None
        other.module.load_state_dict(objective.module.state_dict())
        first, again = (self.losses(o, self.heads(), self.point()) for o in (objective, other))
        assert all(torch.equal(first[name], again[name]) for name in first)

    def test_least_at_the_target(self) -> None:
        """Zero there and positive elsewhere, where the objective is a distance."""
        if not self.least_at_target:
            return
        point = self.point()
        at_target = sum(
            float(loss.detach())
            for loss in self.losses(self.built(), {**self.heads(), "main": point.target}, point).values()
        )
        elsewhere = sum(
            float(loss.detach()) for loss in self.losses(self.built(), self.heads(), point).values()
        )
        assert abs(at_target) <= 1e-9 < elsewhere
