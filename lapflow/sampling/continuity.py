"""Where a segment is entered, is the velocity of the scales in progress continuous? Then a multistep solver
keeps their history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lapflow.core.attention import Mask
from lapflow.core.intervals import Segment
from lapflow.core.state import scalar_time
from lapflow.flows.flow import Flow


def continuous_scales(
    flow: Flow, index: int, before: Mapping[int, Tensor], after: Mapping[int, Tensor], mask: Mask
) -> Sequence[int]:
    """The scales whose velocity is continuous where segment `index` is entered: all that were active, or
    none.

    `before` and `after` are the states [representation] at the end of the segment before and at the start of
    this one, `mask` is the network's. The velocity is continuous if the bridge hands on the very tensors of
    every active scale, if under mask `none`, where they depend on all scales, no scale enters, and if the
    network's time, the path's coefficients and their derivatives are the same on both sides.
    """
    kept = index > 0 and all(after.get(k) is x for k, x in before.items())
    if not kept or (mask == "none" and len(after) > len(before)):
        return ()
    left, right = flow.segments[index - 1], flow.segments[index]
    found = zip(
        _law(flow, flow.solve_t_max(left), left, left.scales),
        _law(flow, right.sampling_start, right, left.scales),
        strict=True,
    )
    return left.scales if all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in found) else ()


def _law(flow: Flow, t: float, segment: Segment, scales: Sequence[int]) -> list[Tensor]:
    """What the velocities at time `t` are made of, beside the network."""
    law = [scalar_time(t), flow.path.model_time(scalar_time(t), segment)]
    for k in scales:
        c = flow.path.coefficients(scalar_time(t), segment, k)
        law += [c.alpha, c.dalpha, c.sigma * segment.noise_scale, c.dsigma * segment.noise_scale]
    return law
