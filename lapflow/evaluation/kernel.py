"""The kernel distance between two sets of features: KID where they are Inception's (Binkowski et al. 2018).

The squared maximum mean discrepancy under the kernel k(x, y) = (x.y / f + 1)^3, by its unbiased estimate

    MMD^2 = mean over i != j of k(x_i, x_j) + the same of y - 2 mean over i, j of k(x_i, y_j),

over random subsets of both sets, as published figures are: their mean is unbiased at any size, so that,
unlike Frechet distances, figures of different counts may be compared. It may be below 0 for sets of one law.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lapflow.core.errors import DataError
from lapflow.evaluation.distances import require_same_length
from lapflow.util.random import keyed_generator


@dataclass(frozen=True)
class KernelDistance:
    """`mean` and standard deviation `std` (divisor n, as the reference implementations') over the subsets."""

    mean: float
    std: float


def kernel_distance(
    a: Tensor, b: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Of features [n, f] and [m, f]. Each of the `subsets` draws `size` of either set without replacement, as
    a function of (`seed`, its number). Raises `DataError` for fewer features than `size`, a size below 2, or
    different lengths."""
    require_same_length(a.shape[1], b.shape[1])
    require_subsets(min(len(a), len(b)), size)
    found = torch.stack(
        [
            squared_mmd(*(_subset(x, size, seed, i, side) for side, x in enumerate((a, b))))
            for i in range(subsets)
        ]
    )
    return KernelDistance(found.mean().item(), found.std(correction=0).item())


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate from features [n, f] and [m, f], n and m >= 2; a scalar, float64."""
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (_kernel(x, x), _kernel(y, y))]
    return within[0] + within[1] - 2 * _kernel(x, y).mean()


def require_subsets(count: int, size: int) -> None:
    """Raises `DataError` unless subsets of `size` can be drawn of `count` features."""
    if not 2 <= size <= count:
        raise DataError(
            "the subsets of the kernel distance do not fit",
            got=f"evaluation.kid.subset_size {size}, {count} features in the smaller set",
            expected=f"2 to {count}" if count >= 2 else "at least two images in either set",
            remedy="lower evaluation.kid.subset_size, or evaluate more images",
        )


def _subset(features: Tensor, size: int, seed: int, number: int, side: int) -> Tensor:
    return features[
        torch.randperm(len(features), generator=keyed_generator(seed, "kernel", number, side))[:size]
    ]


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.double(), y.double()
    return (x @ y.T / x.shape[1] + 1) ** 3
