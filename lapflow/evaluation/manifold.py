"""Precision and recall of samples, by manifolds of nearest neighbours (Kynkaanniemi et al. 2019).

The manifold of a set is the union of a ball about each of its features, out to the k-th nearest other one.
Precision is the share of the samples that lie in the real images' manifold (do samples look real?), recall
the share of the real images that lie in the samples' (is all that is real sampled?). Both depend on the
counts and on k: compare figures of equal ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lapflow.core.errors import DataError
from lapflow.evaluation.distances import CHUNK, require_same_length, squared_distances


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares from 0 to 1."""

    precision: float
    recall: float


def precision_recall(samples: Tensor, real: Tensor, neighbours: int = 3) -> PrecisionRecall:
    """Of features [n, f] and [m, f]; `neighbours` is k. Costs (n + m)^2 distances, in memory CHUNK x max(n,
    m) of them.
    Raises `DataError` for k or fewer features in either set, or for features of different lengths."""
    require_same_length(samples.shape[1], real.shape[1])
    require_neighbours(min(len(samples), len(real)), neighbours)
    return PrecisionRecall(
        _inside(samples, real, _radii(real, neighbours)), _inside(real, samples, _radii(samples, neighbours))
    )


def require_neighbours(count: int, neighbours: int) -> None:
    """Raises `DataError` unless each of `count` features has that many others."""
    if not 1 <= neighbours < count:
        raise DataError(
            "precision and recall need more images than neighbours",
            got=f"evaluation.neighbours {neighbours}, {count} features in the smaller set",
            expected=f"at least {neighbours + 1} images in either set",
            remedy="lower evaluation.neighbours, or evaluate more images",
        )


def _radii(features: Tensor, neighbours: int) -> Tensor:
    """The squared distance [n] of each feature to its k-th nearest other one."""
    found = []
    for start in range(0, len(features), CHUNK):
        squares = torch.cat(list(squared_distances(features[start : start + CHUNK], features)), 1)
        rows = torch.arange(len(squares))
        squares[rows, start + rows] = torch.inf  # itself
        found.append(squares.kthvalue(neighbours, 1).values)
    return torch.cat(found)


def _inside(queries: Tensor, features: Tensor, radii: Tensor) -> float:
    """The share of `queries` [q, f] within the ball of any of `features` [n, f]."""
    inside = 0
    for rows in queries.split(CHUNK):
        hit = torch.zeros(len(rows), dtype=torch.bool)
        for squares, own in zip(squared_distances(rows, features), radii.split(CHUNK), strict=True):
            hit |= (squares <= own).any(1)
        inside += int(hit.sum())
    return inside / len(queries)
