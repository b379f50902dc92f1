"""The kits of what makes a step of training: objective, optimizer, engine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from lapflow.core.backbone import Backbone, Heads
from lapflow.core.condition import Condition
from lapflow.core.engine import Engine
from lapflow.core.objective import Objective
from lapflow.core.optimizer import Optimizer
from lapflow.core.state import State, Times, map_state
from lapflow.flows.flow import Flow, TrainingPoint
from lapflow.plugins.kits.base import Conformance, equal, normal
from lapflow.plugins.registry import create
from lapflow.util.random import keyed_generator

Kept = dict[str, dict[str, Tensor]]


class Fixed(nn.Module):
    """A network that returns the same heads whatever it is given."""

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, state: State, t: Times, condition: Condition, **options: Any) -> Heads:
        return self.heads


class ObjectiveConformance(Conformance[Objective]):
    """Named scalar losses, each a mean over the samples, with gradients for the heads.

    `least_at_target`: the objective is least, and zero, where the heads give the target (not for adversarial
    ones). `image` is the shape (c, h, w) of the images, `num_classes` their classes, `heads_needed` the heads
    beside `main`, and `heads_trained` those that get a gradient at every active scale. Override `flow` for
    one that needs another composition, `heads` where a head is not shaped like the target.
    """

    kind = "objective"
    least_at_target: ClassVar[bool] = True
    image: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    num_classes: ClassVar[int] = 3
    heads_needed: ClassVar[tuple[str, ...]] = ()
    heads_trained: ClassVar[tuple[str, ...]] = ("main",)

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
        """What the objective calls. Override it for one that needs more of a network than its heads."""
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
        return {
            name: {k: normal(*x.shape, key=(name, k), dtype=x.dtype)[rows] for k, x in target.items()}
            for name in ("main", *self.heads_needed)
        }

    def test_losses_are_named_finite_scalars(self) -> None:
        """At least one, each a scalar with a name."""
        losses = self.losses(self.built(), self.heads(), self.point())
        assert losses
        assert all(isinstance(name, str) for name in losses)
        assert all(loss.ndim == 0 and bool(torch.isfinite(loss)) for loss in losses.values())

    def test_each_is_a_mean_over_the_samples(self) -> None:
        """A batch's loss is the mean of its halves': accumulation does not change what is minimised."""
        objective, halves = self.built(), (slice(0, 3), slice(3, 6))
        whole = self.losses(objective, self.heads(), self.point())
        parts = [self.losses(objective, self.heads(rows), self.point(rows)) for rows in halves]
        for name, loss in whole.items():
            mean = (parts[0][name] + parts[1][name]) / 2
            assert bool((loss - mean).abs() <= 1e-5 * (1 + loss.abs()))

    def test_it_draws_nothing(self) -> None:
        """The same pair gives the same losses, without the global generator: a run can be resumed."""
        objective, heads, point = self.built(), self.heads(), self.point()
        state = torch.get_rng_state()
        first, again = (self.losses(objective, heads, point) for _ in range(2))
        assert equal(again, first)
        assert torch.equal(torch.get_rng_state(), state), "the global generator was used"

    def test_gradients_reach_the_heads(self) -> None:
        """At every active scale."""
        heads = {
            name: map_state(lambda x: x.clone().requires_grad_(), head) for name, head in self.heads().items()
        }
        sum(self.losses(self.built(), heads, self.point()).values(), torch.zeros(())).backward()
        for name in self.heads_trained:
            assert all(x.grad is not None and bool(x.grad.any()) for x in heads[name].values()), name

    def test_gradients_reach_its_own_weights(self) -> None:
        """Over all segments every weight of its own is trained."""
        objective = self.built()
        if objective.module is None:
            return
        for segment in range(len(self.flow().segments)):
            losses = self.losses(objective, self.heads(segment=segment), self.point(segment=segment))
            torch.stack(list(losses.values())).sum().backward()
        weights = objective.module.named_parameters()
        dead = [name for name, p in weights if p.grad is None or not bool(p.grad.any())]
        assert not dead, f"no gradient reaches {dead}"

    def test_its_own_weights_are_all_it_keeps(self) -> None:
        """Another one with its weights gives the same losses: what a checkpoint holds is enough."""
        objective, other = self.built(), self.make()
        if objective.module is None:
            return
        self.build(other)
        assert other.module is not None
        other.module.load_state_dict(objective.module.state_dict())
        first, again = (self.losses(o, self.heads(), self.point()) for o in (objective, other))
        assert equal(again, first)

    def test_least_at_the_target(self) -> None:
        """Zero there and positive elsewhere, where the objective is a distance."""
        if not self.least_at_target:
            return
        point, heads = self.point(), self.heads()
        at_target, elsewhere = (
            sum(float(loss.detach()) for loss in self.losses(self.built(), given, point).values())
            for given in ({**heads, "main": point.target}, heads)
        )
        assert abs(at_target) <= 1e-9 < elsewhere


SHAPES = {"units.weight": (6, 4), "units.bias": (6,), "head.weight": (3, 6)}


class OptimizerConformance(Conformance[Optimizer]):
    """It goes down, its state is tensors and can be restored, it updates by element if it says so. The
    weights are a hidden matrix, a vector and a matrix outside the hidden units."""

    kind = "optimizer"

    def weights(self) -> dict[str, nn.Parameter]:
        return {n: nn.Parameter(normal(*s, key=n, dtype=torch.float32)) for n, s in SHAPES.items()}

    def run(self, steps: Sequence[int], weights: dict[str, nn.Parameter], kept: Kept | None = None) -> Kept:
        """Take steps, from the state that was kept; returns the state."""
        built = self.make().build(weights, [n for n in weights if n.startswith("units")], 0.02)
        for name, values in (kept or {}).items():
            built.state[weights[name]].update({key: value.clone() for key, value in values.items()})
        for step in steps:
            for name, p in weights.items():
                p.grad = p.detach() + 0.1 * normal(*p.shape, key=(name, step), dtype=torch.float32)
            for group in built.param_groups:
                group["lr"] = 0.02
            built.step()
        return {name: dict(built.state[p]) for name, p in weights.items()}

    def test_it_goes_down(self) -> None:
        """Steps along the gradient of |w|^2 / 2, with some noise, make every weight smaller."""
        weights, first = self.weights(), self.weights()
        self.run(range(10), weights)
        assert all(weights[n].norm() < first[n].norm() for n in weights)

    def test_the_learning_rate_is_set_in_its_groups(self) -> None:
        """At rate 0 nothing moves."""
        weights, first = self.weights(), self.weights()
        built = self.make().build(weights, [], 0.02)
        for p in weights.values():
            p.grad = torch.ones_like(p)
        for group in built.param_groups:
            group["lr"] = 0.0
        built.step()
        assert equal(weights, first)

    def test_its_state_is_tensors_and_goes_on(self) -> None:
        """Weights and state that were kept give the steps of the uninterrupted run, to the bit."""
        whole, parted = self.weights(), self.weights()
        self.run(range(6), whole)
        kept = self.run(range(3), parted)
        assert all(isinstance(value, Tensor) for values in kept.values() for value in values.values())
        self.run(range(3, 6), parted, kept)
        assert equal(parted, whole)

    def test_it_updates_by_element_if_it_says_so(self) -> None:
        """One flat tensor of all weights, as a sharding engine has it, moves as the weights do."""
        if not self.make().elementwise:
            return
        weights, start = self.weights(), self.weights()
        self.run(range(3), weights)
        flat = nn.Parameter(torch.cat([p.detach().flatten() for p in start.values()]))
        built = self.make().build({"units.flat": flat}, ["units.flat"], 0.02)
        for step in range(3):
            noise = [normal(*s, key=(n, step), dtype=torch.float32).flatten() for n, s in SHAPES.items()]
            flat.grad = flat.detach() + 0.1 * torch.cat(noise)
            built.step()
        want = torch.cat([p.detach().flatten() for p in weights.values()])
        assert torch.allclose(flat, want, rtol=0, atol=1e-6)


def adamw(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters.values(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.01)


class TwoExperts(nn.Module):
    """Two parts of which a call takes some, as a step takes some of the scales."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = nn.Linear(3, 2), nn.Linear(3, 2)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(0.3 * normal(*parameter.shape, key=name, dtype=torch.float32))

    def forward(self, calls: Sequence[tuple[Tensor, bool]]) -> list[Tensor]:
        return [self.coarse(x) + (self.fine(x) if both else 0) for x, both in calls]


class EngineConformance(Conformance[Engine]):
    """On one process the steps of plain torch, zero gradients for what took no part, exact resumption.
    `tolerance` of weights against plain torch; raise it for an engine that trains in low precision."""

    kind = "engine"
    made = ", for one process"
    tolerance: ClassVar[float] = 1e-6
    active: ClassVar[tuple[bool, ...]] = (True, False, False, True)
    rate: ClassVar[float] = 0.05

    @contextmanager
    def run(
        self, grad_clip_norm: float | None = None, state: Kept | None = None
    ) -> Iterator[tuple[Engine, Any]]:
        """A started engine and what training calls, over fresh weights or those kept in `state`."""
        engine, model = self.make(), TwoExperts()
        engine.start()
        try:
            if state is not None:
                model.load_state_dict(state["weights"])
            call = engine.prepare(model, adamw, grad_clip_norm=grad_clip_norm)
            if state is not None:
                engine.restore(state["optimizer"])
            yield engine, call
        finally:
            engine.stop()

    def batch(self, i: int) -> Tensor:
        return normal(4, 3, key=("x", i), dtype=torch.float32)

    def steps(self, engine: Engine, call: Any, active: tuple[bool, ...], first: int = 0) -> list[float]:
        norms = []
        for i, both in enumerate(active, start=first):
            with engine.autocast():
                loss = call([(self.batch(i).to(engine.device), both)])[0].square().mean()
            engine.backward(loss)
            norms.append(engine.step(self.rate))
        return norms

    def kept(self, engine: Engine) -> Kept:
        return {"weights": engine.gather(engine.shards()), "optimizer": engine.state()}

    def reference(self) -> dict[str, Tensor]:
        """Plain torch, with the zero gradient that the contract asks for."""
        model = TwoExperts()
        plain = adamw(dict(model.named_parameters()))
        plain.param_groups[0]["lr"] = self.rate
        for i, both in enumerate(self.active):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            model([(self.batch(i), both)])[0].square().mean().backward()
            plain.step()
        return {name: p.detach() for name, p in model.named_parameters()}

    def test_it_knows_its_place(self) -> None:
        """rank below world_size, a device, agreement that is an `or`, words from every process."""
        with self.run() as (engine, _):
            assert 0 <= engine.rank < engine.world_size
            assert isinstance(engine.device, torch.device)
            assert engine.agree(True, False) == (True, False)
            assert engine.exchange({"a": 1}) == [{"a": 1}] * engine.world_size
            assert engine.first(lambda: 3) == 3

    def test_it_takes_the_steps_of_plain_torch(self) -> None:
        """A part that a step leaves out sees a zero gradient: AdamW still decays moments and weights."""
        with self.run() as (engine, call):
            norms = self.steps(engine, call, self.active)
            got, want = engine.gather(engine.shards()), self.reference()
        assert all(isinstance(norm, float) and norm > 0 for norm in norms)
        assert set(got) == set(want)
        for name, weight in want.items():
            assert got[name].shape == weight.shape
            assert float((got[name] - weight).abs().max()) <= self.tolerance, name

    def test_several_calls_and_micro_batches_add_up(self) -> None:
        """Two calls in a micro-batch, and two micro-batches of half the weight, are one batch."""
        found = []
        for parts in (1, 2):
            with self.run() as (engine, call):
                for i, left in itertools.product(range(2), reversed(range(parts))):
                    rows = self.batch(i).to(engine.device).chunk(parts)[left]
                    with engine.accumulating() if left else nullcontext(), engine.autocast():
                        outputs = call([(rows[0::2], True), (rows[1::2], False)])
                        engine.backward((outputs[0].square().sum() + outputs[1].square().sum()) / 8)
                    if not left:
                        engine.step(self.rate)
                found.append(engine.gather(engine.shards()))
        for name, weight in found[0].items():
            assert float((found[1][name] - weight).abs().max()) <= 10 * self.tolerance, name

    def test_clipping_bounds_the_step_and_reports_the_norm_before(self) -> None:
        """The norm does not depend on the bound; Adam's first moment is that of the clipped gradient."""
        norms, moments = [], []
        for grad_clip_norm in (None, 1e-3):
            with self.run(grad_clip_norm) as (engine, call):
                norms += self.steps(engine, call, (True,))
                moments.append(engine.state()["fine.weight/exp_avg"])
        assert abs(norms[0] - norms[1]) <= 1e-5 * norms[0]
        scaled = moments[0] * 1e-3 / norms[0]
        bound = 1e-4 * float(scaled.abs().max()) + self.tolerance * 1e-3
        assert float((moments[1] - scaled).abs().max()) <= bound

    def test_a_gradient_that_is_not_finite_updates_nothing(self) -> None:
        """Neither weights nor moments; and the next step is as if it had not been."""
        with self.run() as (engine, call):
            self.steps(engine, call, (True, True))
            before = self.kept(engine)
            engine.backward(call([(torch.full((4, 3), float("nan"), device=engine.device), True)])[0].sum())
            assert not math.isfinite(engine.step(self.rate))
            after = self.kept(engine)
            self.steps(engine, call, self.active[2:], first=2)
            last = engine.gather(engine.shards())
        for group, tensors in before.items():
            assert equal(after[group], tensors), group
        with self.run() as (engine, call):
            self.steps(engine, call, (True, True, *self.active[2:]))
            want = engine.gather(engine.shards())
        assert equal(last, want)

    def test_shards_gather_and_scatter(self) -> None:
        """`scatter` undoes `gather`, in new tensors; some of the entries may be gathered alone."""
        with self.run() as (engine, _):
            shards = engine.shards()
            some = engine.gather({name: x for name, x in shards.items() if name.startswith("fine")})
            assert set(some) == {"fine.weight", "fine.bias"}
            again = engine.scatter(engine.gather(shards))
            assert equal(again, shards)
            assert all(again[name].data_ptr() != shard.data_ptr() for name, shard in shards.items())

    def test_a_restored_engine_goes_on_bit_for_bit(self) -> None:
        """Two steps, kept and taken up by a new engine, and two more are four steps."""
        with self.run() as (engine, call):
            self.steps(engine, call, self.active)
            want = self.kept(engine)
        with self.run() as (engine, call):
            self.steps(engine, call, self.active[:2])
            middle = self.kept(engine)
        with self.run(state=middle) as (engine, call):
            self.steps(engine, call, self.active[2:], first=2)
            got = self.kept(engine)
        for group, tensors in want.items():
            assert set(got[group]) == set(tensors)
            assert equal(got[group], tensors), group
