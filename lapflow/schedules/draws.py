"""What training draws: laws of its times, and which noise meets which data. The defaults stand in `core`.

A law's setting may be one number, or one for each scale, coarse to fine: the law of a segment is that of its
finest active scale, the one that is learnt there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.coupling import Coupling
from lapflow.core.errors import ConfigError
from lapflow.core.time_law import TimeLaw
from lapflow.util.transfer import upload

Positive = Annotated[float, Field(gt=0)]
PerScale = float | Sequence[float]


class LogitNormal(TimeLaw):
    """logit(t) ~ N(mean, std^2) (Esser et al. 2024, "Scaling Rectified Flow Transformers", eq. 19): the
    middle of the path more often than its ends. A mean above 0 moves towards the data."""

    def __init__(
        self,
        *,
        mean: Annotated[
            PerScale, Field(description="mean of logit(t), or one per scale coarse to fine")
        ] = 0.0,
        std: Annotated[
            Positive | Sequence[Positive],
            Field(description="std of logit(t), or one per scale coarse to fine"),
        ] = 1.0,
    ) -> None:
        self.mean, self.std = mean, std

    def quantile(self, u: Tensor, scale: int, levels: int) -> Tensor:
        mean, std = _of(self.mean, scale, levels), _of(self.std, scale, levels)
        return torch.sigmoid(mean + std * torch.special.ndtri(u.double())).to(u.dtype)

    def density(self, t: Tensor, scale: int, levels: int) -> Tensor:
        mean, std = _of(self.mean, scale, levels), _of(self.std, scale, levels)
        z = (torch.logit(t) - mean) / std
        return torch.exp(-(z**2) / 2) / (std * math.sqrt(2 * math.pi) * t * (1 - t))

    def require(self, levels: int) -> None:
        _require(self.mean, levels, "time_law.mean")
        _require(self.std, levels, "time_law.std")


class Shifted(TimeLaw):
    """The noise level s = 1 - t of a uniform time, shifted: s' = a s / (1 + (a - 1) s) (Esser et al. 2024,
    eq. 23, where a is the root of the ratio of two resolutions). a > 1: more high noise, 1: uniform."""

    def __init__(
        self,
        *,
        shift: Annotated[
            Positive | Sequence[Positive], Field(description="the shift a, or one per scale coarse to fine")
        ] = 3.0,
    ) -> None:
        self.shift = shift

    def quantile(self, u: Tensor, scale: int, levels: int) -> Tensor:
        a = _of(self.shift, scale, levels)
        return u / (u + a * (1 - u))

    def density(self, t: Tensor, scale: int, levels: int) -> Tensor:
        a = _of(self.shift, scale, levels)
        return a / (1 + (a - 1) * t) ** 2

    def require(self, levels: int) -> None:
        _require(self.shift, levels, "time_law.shift")


def _of(setting: PerScale, scale: int, levels: int) -> float:
    return float(setting[levels - 1 - scale] if isinstance(setting, Sequence) else setting)


def _require(setting: PerScale, levels: int, name: str) -> None:
    if isinstance(setting, Sequence) and len(setting) != levels:
        raise ConfigError(
            f"{name} must name every scale",
            got=f"{len(setting)} numbers for {levels} scales",
            expected=f"one number, or {levels} of them, coarse to fine",
        )


class MinibatchOT(Coupling):
    """The permutation of a batch's noise with the least sum of squared distances to the data (Pooladian et
    al. 2023; Tong et al. 2024): straighter paths. Solved exactly, by scipy's `linear_sum_assignment`, on the
    CPU: it waits for the GPU once a batch, and takes b^3 operations for a batch of b samples at the most."""

    def pair(self, data: Tensor, noise: Tensor, groups: Tensor | None = None) -> Tensor:
        from scipy.optimize import linear_sum_assignment

        cost = torch.cdist(data.flatten(1).double(), noise.flatten(1).double()).square().cpu()
        groups = torch.zeros(len(data), dtype=torch.int64) if groups is None else groups.cpu()
        rows = torch.arange(len(data))
        for group in groups.unique():
            members = (groups == group).nonzero().flatten()
            _, chosen = linear_sum_assignment(cost[members][:, members].numpy())
            rows[members] = members[torch.from_numpy(chosen)]
        return upload(rows, data.device)
