"""Distances between two sets of features: the Frechet distance and the kernel distance (FID and KID where the
features are Inception's)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lapflow.core.errors import DataError
from lapflow.util.random import keyed_generator


@dataclass(frozen=True)
class Statistics:
    """What the Frechet distance needs of a set of features [n, f]: `count`, `mean` [f], `scatter` [f, f]
    about the mean; float64.

    Grown batch by batch: `statistics = statistics.update(features)`; the result does not depend on the
    batches, up to rounding. An update returns a new object.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(features: Tensor) -> Statistics:
        """The statistics of features [n, f], n >= 1."""
        x = features.detach().cpu().double()
        mean = x.mean(0)
        return Statistics(len(x), mean, (x - mean).T @ (x - mean))

    def update(self, features: Tensor) -> Statistics:
        """These statistics with features [n, f] added; n may be 0 (Chan, Golub & LeVeque 1983: no
        cancellation, whatever the means)."""
        return self.merge(Statistics.of(features)) if len(features) else self

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both sets of features together."""
        require_same_length(len(self.mean), len(other.mean))
        total = self.count + other.count
        shift = other.mean - self.mean
        between = torch.outer(shift, shift) * (self.count * other.count / total)
        mean = self.mean + shift * (other.count / total)
        return Statistics(total, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance [f, f] (divisor n - 1, as `numpy.cov`). Raises `DataError` for n < 2."""
        if self.count < 2:
            raise DataError(
                "a covariance needs at least two images", got=self.count, remedy="evaluate more images"
            )
        return self.scatter / (self.count - 1)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """The Frechet distance of two sets, each taken for a Gaussian (Dowson & Landau 1982; as FID, Heusel et
    al. 2017):

        d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)

    The square, not its root, as FID states it. Symmetric, >= 0, and fine with singular covariances: by
    symmetric eigendecompositions in float64, where the usual matrix square root of C1 C2 is complex or fails.
    The estimate from finite sets is biased upwards, the more so the fewer the samples: compare figures of
    equal counts only. Raises `DataError` for features that are not finite, differ in length, or are fewer
    than two.
    """
    require_same_length(len(a.mean), len(b.mean))
    first, second = a.covariance, b.covariance
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise DataError(
            "features are not finite numbers",
            remedy="look at the samples: a diverged model makes such images",
        )
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ second @ root  # symmetric up to rounding
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + first.trace() + second.trace() - 2 * cross
    return max(0.0, distance.item())


@dataclass(frozen=True)
class KernelDistance:
    """`mean` and standard deviation `std` (divisor n, as the reference implementations') over the subsets."""

    mean: float
    std: float


def kernel_distance(
    a: Tensor, b: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> KernelDistance:
    """The kernel distance of features [n, f] and [m, f] (Binkowski et al. 2018): their squared maximum mean
    discrepancy under the kernel k(x, y) = (x.y / f + 1)^3, by its unbiased estimate

        MMD^2 = mean over i != j of k(x_i, x_j) + the same of y - 2 mean over i, j of k(x_i, y_j),

    over random subsets of both sets, as published figures are. Each of the `subsets` draws `size` of either
    set without replacement, as a function of (`seed`, its number). The mean is unbiased at any size, so that,
    unlike Frechet distances, figures of different counts may be compared. It may be below 0 for sets of one
    law. Raises `DataError` for fewer features than `size`, a size below 2, or different lengths.
    """
    require_same_length(a.shape[1], b.shape[1])
    require_subsets(min(len(a), len(b)), size)
    found = torch.stack(
        [squared_mmd(_subset(a, size, seed, i, 0), _subset(b, size, seed, i, 1)) for i in range(subsets)]
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


def require_same_length(a: int, b: int) -> None:
    """Raises `DataError` unless the features of two sets have one length."""
    if a != b:
        raise DataError(
            "the two sets have features of different lengths",
            got=f"{a} and {b}",
            expected="one extractor for both",
        )


def _subset(features: Tensor, size: int, seed: int, number: int, side: int) -> Tensor:
    generator = keyed_generator(seed, "kernel", number, side)
    return features[torch.randperm(len(features), generator=generator)[:size]]


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.double(), y.double()
    return (x @ y.T / x.shape[1] + 1) ** 3
