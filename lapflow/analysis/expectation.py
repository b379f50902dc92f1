"""What an exact solver of the ODE makes of band-diagonal Gaussian data, in closed form.

With V = alpha^2 d^2 + sigma^2 g^2, the optimal velocity carries a band from time a to time b by

    x_b = alpha_b m + sqrt(V_b / V_a) (x_a - alpha_a m),

so a law that is wrong where a segment is entered stays wrong by a known amount. Entering from noise alone
while alpha_0 > 0 has the mean 0 in place of alpha_0 m: the result has std d sigma_0 g / sqrt(V_0) and mean m
(1 - alpha_0 d / sqrt(V_0)) (VP's prior, EDM's finite sigma_max, the bands that Relay's second stage starts
without). Every quantity is per entry of the band.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lapflow.core.bridge import ConditionalBridge
from lapflow.core.decomposition import Band
from lapflow.core.intervals import Segment
from lapflow.core.path import Coefficients
from lapflow.core.state import scalar_time
from lapflow.flows.flow import Flow

Variance = TypeVar("Variance", float, Tensor)


@dataclass(frozen=True)
class Law:
    """A band's law: mean `factor` times the data's, and `variance` per orthonormal direction."""

    factor: Tensor
    variance: Tensor


def expected_law(flow: Flow, band: Band, std: float, like: Tensor) -> Law:
    """The law of a band at the end of sampling, for data of std `std` per direction and noise that is white
    in the band; entries are shaped like `like` [1, c, *sizes]."""

    def at(t: float, segment: Segment) -> Coefficients:
        return flow.path.coefficients(scalar_time(t), segment, band.scale).expand(like)

    zero = torch.zeros_like(like)
    law: Law | None = None
    for segment in (s for s in flow.segments if band.scale in s.scale_starts):
        noise = flow.noise_std(band.scale, segment)
        c = at(segment.sampling_start, segment)
        bridge, d2, mean = flow.bridge, torch.full_like(like, std**2), zero + 1
        if law is None or isinstance(bridge, ConditionalBridge):
            start = Law(zero, (c.sigma * noise).square() + zero)
        elif bridge.designed:  # taken for clean, noised afresh
            start = Law(c.alpha * law.factor, c.alpha**2 * law.variance + (c.sigma * noise).square())
        else:  # the law check found the crossing exact: the law stays what it is relative to the path's
            before = flow.segments[segment.index - 1]
            last = at(flow.solve_t_max(before), before)
            jump = c.sigma * segment.noise_scale / (last.sigma * before.noise_scale)
            jump = torch.where(last.sigma > 0, jump, torch.ones_like(jump))  # it had finished: it is the data
            start = Law(law.factor * jump, law.variance * jump**2)
        given = zero  # the variance of the conditional mean
        if isinstance(bridge, ConditionalBridge) and law is not None:
            a2, g2, gain, d2 = conditional(flow, bridge, band, segment, d2)
            mean = 1 + gain * a2**0.5 * (law.factor - 1)
            given = gain**2 * (a2 * law.variance + g2)
        end = at(flow.solve_t_max(segment), segment)
        before_v, after_v = (x.alpha**2 * d2 + (x.sigma * noise) ** 2 for x in (c, end))
        slope = (after_v / before_v).sqrt()
        shift = end.alpha - slope * c.alpha  # of the mean, which may itself be random: the conditional one
        variance = slope**2 * start.variance + shift**2 * given
        law = Law(shift * mean + slope * start.factor, variance)
    assert law is not None, "every band is active in some segment"
    return law


def conditional(
    flow: Flow, bridge: ConditionalBridge, band: Band, segment: Segment, d2: Variance
) -> tuple[float, float, Variance, Variance]:
    """A band of variance `d2` given z = a y + s n in a cascade: a^2, the variance of s n, the gain of the
    conditional mean m + gain (z - a m), and the conditional variance."""
    before, s = flow.segments[segment.index - 1], bridge.corruption_level
    noise_scale = bridge.corruption_noise_scale(before, segment)
    a2, g2 = 1 - s**2, (s * noise_scale * flow.noise.direction_std(band)) ** 2
    total = a2 * d2 + g2
    return a2, g2, a2**0.5 * d2 / total, d2 * g2 / total


def errors(
    flow: Flow, bands: Mapping[int, Band], std: Mapping[int, float], mean: Mapping[int, Tensor]
) -> dict[int, tuple[float, float]]:
    """{scale: (std / `std` - 1 over the band, mean / `mean` - 1 along the mean)} of an exact solver, with
    `std` per direction."""
    found = {}
    for k, band in bands.items():
        law = expected_law(flow, band, std[k], mean[k])
        spread = (law.variance.mean().sqrt() / std[k]).item() - 1
        found[k] = spread, ((law.factor * mean[k] ** 2).sum() / (mean[k] ** 2).sum()).item() - 1
    return found
