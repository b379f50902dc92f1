"""The optimizer contract: it goes down, its state is tensors and can be restored, it updates by element if it
says so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lapflow.core.optimizer import Optimizer
from lapflow.plugins.kits.base import Conformance, normal

SHAPES = {"units.weight": (6, 4), "units.bias": (6,), "head.weight": (3, 6)}


class OptimizerConformance(Conformance):
    """The weights are a hidden matrix, a vector and a matrix outside the hidden units."""

    kind = "optimizer"

    def make(self) -> Optimizer:
        raise NotImplementedError("override make() to return the optimizer under test")

    def weights(self) -> dict[str, nn.Parameter]:
        return {n: nn.Parameter(normal(*s, key=n, dtype=torch.float32)) for n, s in SHAPES.items()}

    def run(
        self,
        steps: Sequence[int],
        weights: dict[str, nn.Parameter],
        kept: dict[str, dict[str, Tensor]] | None,
    ) -> dict[str, dict[str, Tensor]]:
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
        self.run(range(10), weights, None)
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
        assert all(torch.equal(weights[n], first[n]) for n in weights)

    def test_its_state_is_tensors_and_goes_on(self) -> None:
        """Weights and state that were kept give the steps of the uninterrupted run, to the bit."""
        whole, parted = self.weights(), self.weights()
        self.run(range(6), whole, None)
        kept = self.run(range(3), parted, None)
        assert all(isinstance(value, Tensor) for values in kept.values() for value in values.values())
        kept = {name: {key: value.clone() for key, value in values.items()} for name, values in kept.items()}
        self.run(range(3, 6), parted, kept)
        assert all(torch.equal(whole[n], parted[n]) for n in whole)

    def test_it_updates_by_element_if_it_says_so(self) -> None:
        """One flat tensor of all weights, as a sharding engine has it, moves as the weights do."""
        if not self.make().elementwise:
            return
        weights = self.weights()
        self.run(range(3), weights, None)
        start = self.weights()
        flat = {"units.flat": nn.Parameter(torch.cat([p.detach().flatten() for p in start.values()]))}
        built = self.make().build(flat, list(flat), 0.02)
        for step in range(3):
            parts = flat["units.flat"].detach().split([p.numel() for p in start.values()])
            gradients = [
                (
                    x.reshape(SHAPES[n]) + 0.1 * normal(*SHAPES[n], key=(n, step), dtype=torch.float32)
                ).flatten()
                for n, x in zip(SHAPES, parts)
            ]
            flat["units.flat"].grad = torch.cat(gradients)
            built.step()
        want = torch.cat([p.detach().flatten() for p in weights.values()])
        assert torch.allclose(flat["units.flat"], want, rtol=0, atol=1e-6)
