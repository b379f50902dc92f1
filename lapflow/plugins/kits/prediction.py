"""The prediction contract: targets that are linear in the pair, conversions that give the pair back, a
velocity that is one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.path import Coefficients
from lapflow.core.prediction import Prediction
from lapflow.plugins.kits.base import Conformance, normal, relative


class PredictionConformance(Conformance):
    """Tried on alpha = t, sigma = 1 - t at times inside (0, 1), with noise of std `noise_std`."""

    kind = "prediction"
    noise_std: ClassVar[float] = 0.5

    def make(self) -> Prediction:
        raise NotImplementedError("override make() to return the prediction under test")

    def pair(self) -> tuple[Coefficients, Tensor, Tensor, Tensor]:
        """(coefficients, x, x1, x0) of a batch of eight."""
        t = torch.linspace(0.05, 0.95, 8, dtype=torch.float64)
        one = torch.ones_like(t)
        data, noise = normal(8, 1, 2, 2, key="x1"), self.noise_std * normal(8, 1, 2, 2, key="x0")
        c = Coefficients(t, 1 - t, one, -one).expand(data)
        return c, c.position(data, noise), data, noise

    def test_the_pair_comes_back(self) -> None:
        """`endpoints` of `target` is (x1, x0)."""
        prediction, (c, x, data, noise) = self.make(), self.pair()
        got = prediction.endpoints(c, x, prediction.target(c, x, data, noise, self.noise_std), self.noise_std)
        assert relative(got[0], data) <= 1e-9
        assert relative(got[1], noise) <= 1e-9

    def test_its_velocity_is_the_path_s(self) -> None:
        """`velocity` of `target` is dx/dt."""
        prediction, (c, x, data, noise) = self.make(), self.pair()
        got = prediction.velocity(c, x, prediction.target(c, x, data, noise, self.noise_std), self.noise_std)
        assert relative(got, c.velocity(data, noise)) <= 1e-9

    def test_the_target_is_linear_in_the_pair(self) -> None:
        """At a given x, so that the optimum is the target of the conditional means."""
        prediction, (c, x, data, noise) = self.make(), self.pair()
        one = prediction.target(c, x, data, noise, self.noise_std)
        other = prediction.target(c, x, noise, data, self.noise_std)
        mixed = prediction.target(c, x, 0.3 * data + 0.7 * noise, 0.3 * noise + 0.7 * data, self.noise_std)
        assert relative(mixed, 0.3 * one + 0.7 * other) <= 1e-9

    def test_weights_and_inputs_are_sane(self) -> None:
        """Weights are positive and finite, inputs finite and of x's shape."""
        prediction, (c, x, _, _) = self.make(), self.pair()
        weight = torch.as_tensor(prediction.weight(c, self.noise_std))
        assert bool((weight > 0).all())
        assert bool(torch.isfinite(weight).all())
        given = prediction.precondition(c, x)
        assert given.shape == x.shape
        assert bool(torch.isfinite(given).all())
