"""The engine contract on one process: the same steps as plain torch, zero gradients for what took no part,
exact resumption."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lapflow.core.engine import Engine
from lapflow.plugins.kits.base import Conformance, normal


def optimizer(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
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


class EngineConformance(Conformance):
    """`tolerance` of weights against plain torch; raise it for an engine that trains in low precision."""

    kind = "engine"
    tolerance: ClassVar[float] = 1e-6
    active: ClassVar[tuple[bool, ...]] = (True, False, False, True)
    rate: ClassVar[float] = 0.05

    def make(self) -> Engine:
        raise NotImplementedError("override make() to return the engine under test, for one process")

    @contextmanager
    def run(
        self, grad_clip_norm: float | None = None, state: dict[str, dict[str, Tensor]] | None = None
    ) -> Iterator[tuple[Engine, Any]]:
        """A started engine and what training calls, over fresh weights or those kept in `state`."""
        engine, model = self.make(), TwoExperts()
        engine.start()
        try:
            if state is not None:
                model.load_state_dict(state["weights"])
            call = engine.prepare(model, optimizer, grad_clip_norm=grad_clip_norm)
            if state is not None:
                engine.restore(state["optimizer"])
            yield engine, call
        finally:
            engine.stop()

    def steps(self, engine: Engine, call: Any, active: tuple[bool, ...], first: int = 0) -> list[float]:
        norms = []
        for i, both in enumerate(active, start=first):
            x = normal(4, 3, key=("x", i), dtype=torch.float32).to(engine.device)
            with engine.autocast():
                loss = call([(x, both)])[0].square().mean()
            engine.backward(loss)
            norms.append(engine.step(self.rate))
        return norms

    def kept(self, engine: Engine) -> dict[str, dict[str, Tensor]]:
        return {"weights": engine.gather(engine.shards()), "optimizer": engine.state()}

    def reference(self) -> dict[str, Tensor]:
        """Plain torch, with the zero gradient that the contract asks for."""
        model = TwoExperts()
        plain = optimizer(dict(model.named_parameters()))
        plain.param_groups[0]["lr"] = self.rate
        for i, both in enumerate(self.active):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            model([(normal(4, 3, key=("x", i), dtype=torch.float32), both)])[0].square().mean().backward()
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
        """Where a part takes no part in a step, it sees a zero gradient: AdamW still decays its moments and
        weights."""
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
                for i in range(2):
                    for left in reversed(range(parts)):
                        rows = (
                            normal(4, 3, key=("x", i), dtype=torch.float32)
                            .to(engine.device)
                            .chunk(parts)[left]
                        )
                        with engine.accumulating() if left else nullcontext(), engine.autocast():
                            outputs = call([(rows[0::2], True), (rows[1::2], False)])
                            engine.backward((outputs[0].square().sum() + outputs[1].square().sum()) / 8)
                    engine.step(self.rate)
                found.append(engine.gather(engine.shards()))
        for name, weight in found[0].items():
            assert float((found[1][name] - weight).abs().max()) <= 10 * self.tolerance, name

    def test_clipping_bounds_the_step_and_reports_the_norm_before(self) -> None:
        """The norm returned does not depend on the bound; Adam's first moment is that of the clipped
        gradient."""
        norms, moments = [], []
        for grad_clip_norm in (None, 1e-3):
            with self.run(grad_clip_norm) as (engine, call):
                norms += self.steps(engine, call, (True,))
                moments.append(engine.state()["fine.weight/exp_avg"])
        assert abs(norms[0] - norms[1]) <= 1e-5 * norms[0]
        scaled = moments[0] * 1e-3 / norms[0]
        assert (
            float((moments[1] - scaled).abs().max())
            <= 1e-4 * float(scaled.abs().max()) + self.tolerance * 1e-3
        )

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
            assert all(torch.equal(x, after[group][name]) for name, x in tensors.items()), group
        with self.run() as (engine, call):
            self.steps(engine, call, (True, True, *self.active[2:]))
            want = engine.gather(engine.shards())
        assert all(torch.equal(last[name], x) for name, x in want.items())

    def test_shards_gather_and_scatter(self) -> None:
        """`scatter` undoes `gather`, in new tensors; some of the entries may be gathered alone."""
        with self.run() as (engine, _):
            shards = engine.shards()
            some = engine.gather({name: x for name, x in shards.items() if name.startswith("fine")})
            assert set(some) == {"fine.weight", "fine.bias"}
            again = engine.scatter(engine.gather(shards))
            assert all(
                torch.equal(again[name], shard) and again[name].shape == shard.shape
                for name, shard in shards.items()
            )
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
            assert all(torch.equal(got[group][name], x) for name, x in tensors.items()), group
