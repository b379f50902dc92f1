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

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lapflow.analysis.expectation import conditional
from lapflow.core.attention import Mask, visible
from lapflow.core.backbone import MAIN, Heads
from lapflow.core.bridge import ConditionalBridge
from lapflow.core.condition import Condition
from lapflow.core.field import Endpoints
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients, posterior_variance
from lapflow.core.state import Shape, State, map_state, scalar_time
from lapflow.flows.flow import Flow
from lapflow.sampling.sampler import FlowField
from lapflow.util.random import Generators

SOLVE_T_MAX_WITH_DEAD_NOISE = 1 - 1e-8
"""Noise in a dead direction has velocity (sigma'/sigma) x, 0/0 at t = 1; integration then ends before."""


class Basis:
    """A basis of the white noise of a sampling run. A sampler that is given an affine field is an affine map
    of its noise: passing a basis through it gives mean and covariance of its output exactly.

    Rows of a batch: row 0 without any noise, then one row for each white draw, set to 1: first those of the
    noise pyramids, then those of the `calls` fresh draws of a stochastic solver, in the order in which it
    asks for them.
    """

    def __init__(self, flow: Flow, shape: Shape, calls: int = 0) -> None:
        self.flow, self.shape, self.calls, self.asked = flow, shape, calls, 0
        self.white_shapes = flow.noise.white_shapes(shape)
        self.each = sum(map(math.prod, self.white_shapes.values()))
        self.finest = flow.finest_noise_scales()
        self.rows = 1 + self.each * (len(self.finest) + calls)
        dead = any(flow.noise.dead_std(band) for band in flow.bands(shape).values())
        self.solve_t_max = SOLVE_T_MAX_WITH_DEAD_NOISE if dead else 1.0

    def noise_draws(self) -> list[State]:
        """The noise pyramids of the batch."""
        return [self._noise_draw(i, finest) for i, finest in enumerate(self.finest)]

    def fresh(self, segment: Segment, like: Mapping[int, Tensor]) -> State:
        """The next fresh draw, as bands at the segment's noise scale; beyond `calls` counted, and zero."""
        self.asked += 1
        if self.asked > self.calls:
            return map_state(torch.zeros_like, like)
        finest = self.finest[self.flow.bridge.noise_index(segment)]
        drawn = self._noise_draw(len(self.finest) + self.asked - 1, finest)
        return {k: drawn[k] * segment.noise_scale for k in like}

    def noise_rows(self, segment: Segment) -> State:
        """One row per white draw of a single pyramid, as the bands of the segment's noise."""
        finest = self.finest[self.flow.bridge.noise_index(segment)]
        bands = self.flow.noise.from_white(self._white(0, self.each), finest)
        return {k: x * segment.noise_scale for k, x in bands.items() if k in segment.scales}

    def _noise_draw(self, index: int, finest: int) -> State:
        return self.flow.noise.from_white(self._white(1 + index * self.each, self.rows), finest)

    def _white(self, start: int, rows: int) -> State:
        """The white draws of a batch of `rows`, of which those from `start` on are set to 1 in turn."""
        white = {}
        for k, shape in self.white_shapes.items():
            size = math.prod(shape)
            columns = torch.zeros(rows, size, dtype=torch.float64)
            columns[start : start + size] = torch.eye(size, dtype=torch.float64)
            white[k], start = columns.reshape(-1, *shape), start + size
        return white


def pixel_bands(flow: Flow, shape: Shape) -> State:
    """The bands of the images of `shape` in which one value each is 1: rows of the decomposition's map."""
    return flow.decomposition.analyze(torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape))


class Oracle(FlowField):
    """The optimum in the network's place. Fresh noise is that of `basis`."""

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
    """For Gaussian data of independent bands, white in their ranges: std `std[k]`, mean `mean[k]`."""

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
        for k in before.scales:
            a2, _, gain, variance = conditional(
                self.flow, bridge, self.bands[k], self.segment, self.std[k] ** 2
            )
            self.mean[k] = self.mean[k] + gain * (image[k] - a2**0.5 * self.mean[k])
            self.std[k] = variance**0.5

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
        """With an ancestral step's optimal variance: betatilde, and x1's spread given x by its factor."""
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
    """For Gaussian images of any `covariance` [n, n] (pixels) and `mean` (bands), as far as `mask` allows."""

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
        images = pixel_bands(flow, basis.shape)
        self.shapes = {k: images[k].shape[1:] for k in segment.scales}
        self.sizes = [images[k][0].numel() for k in segment.scales]
        split, spread = self._flat(images), self._flat(basis.noise_rows(segment))
        self.data_covariance, self.noise_covariance = split.T @ covariance @ split, spread.T @ spread
        zero = torch.zeros(sum(self.sizes), dtype=torch.float64)
        self.mean = zero if mean is None else self._flat(mean)[0]

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
        parts = zip(self.segment.scales, flat.split(self.sizes, dim=1))
        return {k: x.reshape(-1, *self.shapes[k]) for k, x in parts}
