"""The engine contract on one process: the same steps as plain torch, zero gradients for what took no part, exact resumption."""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor, nn

from lapflow.core.engine import Engine
from lapflow.plugins.kits.base import Conformance, normal

optimizer = functools.partial(torch.optim.AdamW, lr=0.0, betas=(0.9, 0.99), weight_decay=0.01)


class TwoExperts(nn.Module):
    """Two parts of which a call takes some, as a step takes some of the scales."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = nn.Linear(3, 2), nn.Linear(3, 2)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(0.3 * normal(*parameter.shape, key=name, dtype=torch.float32))

    def forward(self, x: Tensor, both: bool) -> Tensor:
        return self.coarse(x) + (self.fine(x) if both else 0)


class EngineConformance(Conformance):
    """`tolerance` of weights against plain torch; raise it for an engine that trains in low precision."""

    kind = "engine"
    tolerance: ClassVar[float] = 1e-6
    active: ClassVar[tuple[bool, ...]] = (True, False, False, True)
    rate: ClassVar[float] = 0.05

    def make(self) -> Engine:
        raise NotImplementedError("override make() to return the engine under test, for one process")

    def steps(self, engine: Engine, module: nn.Module, active: tuple[bool, ...], first: int = 0) -> list[float]:
        norms = []
        for i, both in enumerate(active, start=first):
            x = normal(4, 3, key=("x", i), dtype=torch.float32).to(engine.device)
            with engine.autocast():
                loss = module(x, both).square().mean()
            engine.backward(loss)
            norms.append(engine.step(self.rate, None))
        return norms

    def reference(self) -> dict[str, Tensor]:
        """Plain torch, with the zero gradient that the contract asks for."""
        model = TwoExperts()
        plain = optimizer(model.parameters())
        plain.param_groups[0]["lr"] = self.rate
        for i, both in enumerate(self.active):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            model(normal(4, 3, key=("x", i), dtype=torch.float32), both).square().mean().backward()
            plain.step()
        return {name: p.detach() for name, p in model.named_parameters()}

    def test_it_knows_its_place(self) -> None:
        """rank below world_size, a device, and agreement that is an `or`."""
        engine = self.make()
        engine.prepare(TwoExperts(), optimizer)
        assert 0 <= engine.rank < engine.world_size
        assert isinstance(engine.device, torch.device)
        assert engine.agree(True) is True
        assert engine.agree(False) is False

    def test_it_takes_the_steps_of_plain_torch(self) -> None:
        """Where a part takes no part in a step, it sees a zero gradient: AdamW still decays its moments and weights."""
        engine = self.make()
        norms = self.steps(engine, engine.prepare(TwoExperts(), optimizer), self.active)
        assert all(isinstance(norm, float) and norm > 0 for norm in norms)
        got, want = engine.weights(), self.reference()
        assert set(got) == set(want)
        for name, weight in want.items():
            assert float((got[name].cpu().float() - weight).abs().max()) <= self.tolerance, name

    def test_clipping_bounds_the_step_and_reports_the_norm_before(self) -> None:
        """The norm returned does not depend on the bound."""
        found = []
        for clip in (None, 1e-3):
            engine = self.make()
            module = engine.prepare(TwoExperts(), optimizer)
            with engine.autocast():
                loss = module(normal(4, 3, dtype=torch.float32).to(engine.device), True).square().mean()
            engine.backward(loss)
            found.append(engine.step(self.rate, clip))
        assert abs(found[0] - found[1]) <= 1e-5 * found[0]

    def test_a_loaded_engine_goes_on_bit_for_bit(self) -> None:
        """Two steps, saved and loaded into a new engine, and two more are four steps."""
        whole, first, second = self.make(), self.make(), self.make()
        self.steps(whole, whole.prepare(TwoExperts(), optimizer), self.active)
        self.steps(first, first.prepare(TwoExperts(), optimizer), self.active[:2])
        weights, state = ({name: x.clone() for name, x in d.items()} for d in (first.weights(), first.state()))
        module = second.prepare(TwoExperts(), optimizer)
        second.load(weights, state)
        self.steps(second, module, self.active[2:], first=2)
        got, want = second.weights(), whole.weights()
        assert all(torch.equal(got[name], want[name]) for name in want)
