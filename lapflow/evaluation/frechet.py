"""The Frechet distance between two sets of features, each taken for a Gaussian.

d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)    (Dowson & Landau 1982; as FID, Heusel et al.
2017)

The estimate from finite sets is biased upwards, the more so the fewer the samples: compare figures of equal
counts only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lapflow.core.errors import DataError
from lapflow.evaluation.distances import require_same_length


@dataclass(frozen=True)
class Statistics:
    """What the distance needs of a set of features [n, f]: `count`, `mean` [f], `scatter` [f, f] about the
    mean; float64.

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
        mean = self.mean + shift * (other.count / total)
        scatter = (
            self.scatter + other.scatter + torch.outer(shift, shift) * (self.count * other.count / total)
        )
        return Statistics(total, mean, scatter)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance [f, f] (divisor n - 1, as `numpy.cov`). Raises `DataError` for fewer than
        two samples."""
        if self.count < 2:
            raise DataError(
                "a covariance needs at least two images", got=self.count, remedy="evaluate more images"
            )
        return self.scatter / (self.count - 1)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """d^2 of the two sets, as FID states it: the square, not its root. Symmetric, >= 0, and fine with
    singular covariances.

    By symmetric eigendecompositions in float64, where the usual matrix square root of C1 C2 is complex or
    fails for singular ones. Raises `DataError` for features that are not finite, differ in length, or are
    fewer than two.
    """
    require_same_length(len(a.mean), len(b.mean))
    first, second = a.covariance, b.covariance
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise DataError(
            "features are not finite numbers",
            remedy="look at the samples: a diverged model makes such images",
        )
    root = _square_root(first)
    cross = _eigenvalues(root @ second @ root).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + first.trace() + second.trace() - 2 * cross
    return max(0.0, distance.item())


def _square_root(matrix: Tensor) -> Tensor:
    """The symmetric root of a symmetric positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues >= 0; the product is symmetrised first, since it is symmetric only up to rounding."""
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2).clamp(min=0)
