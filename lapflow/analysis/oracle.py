"""Gaussian oracles: on Gaussian data the optimal prediction is known, and takes the network's place in the
real sampler.

Given x = alpha x1 + sigma x0 with Gaussian x1 and x0, E[x1 | x] and E[x0 | x] are affine in x; every target
of a network is linear in (x1, x0), so its optimum is the target of these two. They go through the same
conversions as a network's output.

* `BandOracle`: x1_k = lam_k times the k-th band of a white image, plus a mean m_k. One scalar per band:

      E[x1|x] = m + (alpha d^2 / V)(x - alpha m),    E[x0|x] = (sigma g^2 / V)(x - alpha m),
      V = alpha^2 d^2 + sigma^2 g^2,

  with d and g the stds of data and noise per orthonormal direction of the band's range; outside the range d =
  0. In a cascade m and d are those given the condition z = a y + s n: m + (a d^2 / (a^2 d^2 + s^2 g^2))(z - a
  m) and d s g / sqrt(a^2 d^2 + s^2 g^2).
* `MatrixOracle`: any covariance of data and noise, and a mask: what scale k may see decides its optimum. Only
  mask `none` has the exact joint optimum when bands are dependent; the deviation under `causal` and `self` is
  the price of the mask.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lapflow.analysis.basis import Basis
from lapflow.core.attention import Mask, visible
from lapflow.core.backbone import MAIN, Heads
from lapflow.core.bridge import ConditionalBridge
from lapflow.core.condition import Condition
from lapflow.core.field import Endpoints
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, posterior_variance
from lapflow.core.state import State, scalar_time
from lapflow.flows.flow import Flow
from lapflow.sampling.sampler import FlowField
from lapflow.util.random import Generators


class Oracle(FlowField):
    """The optimum in the network's place. Fresh noise comes from `basis`, whose rows a sampler maps
    linearly."""

    def __init__(self, flow: Flow, segment: Segment, basis: Basis) -> None:
        super().__init__(flow, segment, basis.shape, basis.solve_t_max)
        self.basis = basis

    @abstractmethod
    def expectation(self, bands: State, t: float) -> tuple[State, State]:
        """E[x1 | x] and E[x0 | x], as bands."""

    def predict(self, state: Mapping[int, Tensor], t: float) -> Heads:
        bands = self.to_bands(state)
        data, noise = self.expectation(bands, t)
        return {MAIN: self.flow.target(bands, data, noise, scalar_time(t), self.segment)}

    def noise(self, bands: Mapping[int, Tensor], generator: Generators | None) -> State:
        return self.basis.fresh(self.segment, bands)


class BandOracle(Oracle):
    """For Gaussian data that is independent between bands and white inside each band's range: std `std[k]`,
    mean `mean[k]`."""

    mask = "self"

    def __init__(
        self,
        flow: Flow,
        segment: Segment,
        basis: Basis,
        std: Mapping[int, float],
        mean: Mapping[int, Tensor],
        condition: Condition | None = None,
    ) -> None:
        super().__init__(flow, segment, basis)
        self.bands = flow.bands(basis.shape)
        self.std = {k: std[k] * self.bands[k].direction_std for k in segment.scales}
        self.mean = {k: mean[k] for k in segment.scales}
        if condition is not None and condition.image is not None:
            self._condition_on(self.to_bands(condition.image.value))

    def _condition_on(self, image: State) -> None:
        before, bridge = self.flow.segments[self.segment.index - 1], self.flow.bridge
        assert isinstance(bridge, ConditionalBridge), "only a cascade hands an image on"
        s, noise_scale = bridge.corruption_level, bridge.corruption_noise_scale(before, self.segment)
        a2 = 1 - s**2
        for k in before.scales:
            d2, g2 = self.std[k] ** 2, (s * noise_scale * self.flow.noise.direction_std(self.bands[k])) ** 2
            gain = a2**0.5 * d2 / (a2 * d2 + g2)
            self.mean[k] = self.mean[k] + gain * (image[k] - a2**0.5 * self.mean[k])
            self.std[k] = (d2 * g2 / (a2 * d2 + g2)) ** 0.5

    def expectation(self, bands: State, t: float) -> tuple[State, State]:
        data, noise = {}, {}
        for k, c in self.coefficients(bands, t).items():
            dead = self.flow.noise.dead_std(self.bands[k])
            d, g = self.std[k], self.flow.noise_std(k, self.segment)
            centred = bands[k] - c.alpha * self.mean[k]
            inside = self.flow.decomposition.project(centred, k) if dead else centred
            total = c.alpha**2 * d**2 + c.sigma**2 * g**2
            data[k] = self.mean[k] + c.alpha * d**2 / total * inside
            noise[k] = c.sigma * g**2 / total * inside
            if dead:
                noise[k] = noise[k] + (centred - inside) / c.sigma
        return data, noise

    def endpoints(self, state: Mapping[int, Tensor], t: float) -> Endpoints:
        """With the optimal variance of an ancestral step: betatilde, and what the spread of x1 given x adds
        through x1's factor."""
        said = super().endpoints(state, t)

        def variance(t_next: float) -> State:
            now, after = self.coefficients(said.data, t), self.coefficients(said.data, t_next)
            return {k: self._step_variance(k, now[k], after[k]).expand_as(said.data[k]) for k in said.data}

        return replace(said, variance=variance)

    def _step_variance(self, scale: int, c: Coefficients, after: Coefficients) -> Tensor:
        d, g = self.std[scale], self.flow.noise_std(scale, self.segment)
        small = posterior_variance(c, after)
        factor = after.alpha - (after.sigma**2 - small).clamp(min=0).sqrt() * c.alpha / c.sigma
        spread = d**2 * c.sigma**2 * g**2 / (c.alpha**2 * d**2 + c.sigma**2 * g**2)
        return small + factor**2 * spread / g**2


class MatrixOracle(Oracle):
    """For Gaussian images of any `covariance` [n, n] (pixels) and `mean` (bands), as far as `mask` lets a
    scale see."""

    def __init__(
        self,
        flow: Flow,
        segment: Segment,
        basis: Basis,
        covariance: Tensor,
        mean: Mapping[int, Tensor] | None = None,
        mask: Mask = "none",
    ) -> None:
        super().__init__(flow, segment, basis)
        self.mask = mask
        images = flow.decomposition.analyze(
            torch.eye(covariance.shape[0], dtype=torch.float64).reshape(-1, *basis.shape)
        )
        self.shapes = {k: images[k].shape[1:] for k in segment.scales}
        self.sizes = [images[k][0].numel() for k in segment.scales]
        split, spread = self._flat(images), self._flat(basis.noise_rows(segment))
        self.data_covariance, self.noise_covariance = split.T @ covariance @ split, spread.T @ spread
        self.mean = (
            torch.zeros(sum(self.sizes), dtype=torch.float64) if mean is None else self._flat(dict(mean))[0]
        )

    def expectation(self, bands: State, t: float) -> tuple[State, State]:
        found = self.coefficients(bands, t)
        like = {k: bands[k][:1] for k in self.segment.scales}
        a = self._flat({k: c.alpha.expand_as(like[k]) for k, c in found.items()})[0]
        b = self._flat({k: c.sigma.expand_as(like[k]) for k, c in found.items()})[0]
        joint = a[:, None] * self.data_covariance * a + b[:, None] * self.noise_covariance * b
        centred = self._flat(bands) - a * self.mean
        data, noise = [], []
        for q, r, c, d in visible(self.mask, self.sizes):
            weights = centred[:, c:d] @ torch.linalg.pinv(joint[c:d, c:d], hermitian=True, rtol=1e-13)
            data.append(weights @ (self.data_covariance[q:r, c:d] * a[c:d]).T)
            noise.append(weights @ (self.noise_covariance[q:r, c:d] * b[c:d]).T)
        return self._bands(torch.cat(data, dim=1) + self.mean), self._bands(torch.cat(noise, dim=1))

    def _flat(self, bands: Mapping[int, Tensor]) -> Tensor:
        return torch.cat([bands[k].flatten(1) for k in self.segment.scales], dim=1)

    def _bands(self, flat: Tensor) -> State:
        return {
            k: x.reshape(-1, *self.shapes[k])
            for k, x in zip(self.segment.scales, flat.split(self.sizes, dim=1))
        }
