"""Measures by nearest neighbours: copies of training images, and precision and recall of features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lapflow.core.errors import DataError
from lapflow.evaluation.distances import require_same_length

CHUNK = 1024
"""Rows of a piece on either side of a matrix of distances: 8 MiB of float64."""


@dataclass(frozen=True)
class CopyReport:
    """Distances in grey levels, Euclidean over all pixels; None where there are no held-out images.

    `copies` = `exact` + `near` of `samples`; `threshold`: the distance between the two most similar different
    real images.
    """

    samples: int
    exact: int
    near: int
    threshold: float
    closest: float
    median: float
    held_out_closest: float | None
    held_out_median: float | None

    @property
    def copies(self) -> int:
        return self.exact + self.near


def copies(samples: Tensor, training: Tensor, held_out: Tensor, grey_levels: int) -> CopyReport:
    """Memorisation: compare `samples` with `training` images, and `held_out` images (may be empty) likewise;
    all [n, c, h, w] in [-1, 1].

    A sample is rounded to the set's grey levels first, as saving it would; then it counts as a **copy** of a
    training image if it equals it (`exact`), or is nearer to it than any two different real images of the
    set, training or held out, are to each other (`near`). By this rule no held-out image is a copy, and no
    threshold has to be tuned: the data give it. On the digits it is 5.3, while a held-out digit lies 9.1 to
    34 from its nearest training image, median 18, and a training digit with noise of half a grey level per
    pixel lies 4 from its original. In a set with near duplicates the threshold is small, and the rule strict.
    Look at the medians too: samples that are systematically nearer to the training images than held-out ones
    are a sign of memorisation long before they are copies.

    Costs (training + held out)^2 + samples x training distances. Raises `DataError` without samples, or with
    fewer than two training images.
    """
    made, seen, unseen = (whole_levels(images, grey_levels) for images in (samples, training, held_out))
    return copy_report(nearest_distances(made, seen) if len(seen) else made.new_empty(0), seen, unseen)


def copy_report(nearest: Tensor, seen: Tensor, unseen: Tensor) -> CopyReport:
    """The report of samples whose distances to their `nearest` [n] training images are known; `seen` and
    `unseen` are the `whole_levels` of training and held-out images. Raises as `copies`."""
    if len(nearest) < 1 or len(seen) < 2:
        raise DataError(
            "copies cannot be looked for",
            got=f"{len(nearest)} samples, {len(seen)} training images",
            expected="at least 1 and 2",
        )
    real = torch.cat([seen, unseen])
    threshold = nearest_distances(real, real, different=True).min().item()
    control = nearest_distances(unseen, seen)
    return CopyReport(
        samples=len(nearest),
        exact=int((nearest == 0).sum()),
        near=int(((nearest > 0) & (nearest < threshold)).sum()),
        threshold=threshold,
        closest=nearest.min().item(),
        median=nearest.median().item(),
        held_out_closest=control.min().item() if len(control) else None,
        held_out_median=control.median().item() if len(control) else None,
    )


def nearest_distances(queries: Tensor, references: Tensor, different: bool = False) -> Tensor:
    """The Euclidean distance [n], float64, of each row of `queries` [n, f] to the nearest row of `references`
    [m, f], m >= 1; with `different`, to the nearest that is not equal to it (infinite if there is none),
    which is exact for whole numbers."""
    found = []
    for rows in queries.split(CHUNK):
        best = torch.full((len(rows),), math.inf, dtype=torch.float64)
        for squares in squared_distances(rows, references):
            if different:
                squares = squares.masked_fill(squares == 0, math.inf)
            best = torch.minimum(best, squares.min(1).values)
        found.append(best)
    return torch.cat(found).sqrt()


def whole_levels(images: Tensor, grey_levels: int) -> Tensor:
    """Images [n, c, h, w] in [-1, 1] -> rounded, clipped grey levels [n, f], a byte each where they fit."""
    levels = ((images.detach().cpu().double() + 1) / 2 * grey_levels).clamp(0, grey_levels).round()
    return levels.flatten(1).to(torch.uint8 if grey_levels <= 255 else torch.int32)


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares from 0 to 1."""

    precision: float
    recall: float


def precision_recall(samples: Tensor, real: Tensor, neighbours: int = 3) -> PrecisionRecall:
    """Precision and recall of features [n, f] and [m, f] (Kynkaanniemi et al. 2019); `neighbours` is k.

    The manifold of a set is the union of a ball about each of its features, out to the k-th nearest other
    one. Precision is the share of the samples that lie in the real images' manifold (do samples look real?),
    recall the share of the real images that lie in the samples' (is all that is real sampled?). Both depend
    on the counts and on k: compare figures of equal ones. Costs (n + m)^2 distances, in memory CHUNK x
    max(n, m) of them. Raises `DataError` for k or fewer features in either set, or for different lengths.
    """
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


def squared_distances(rows: Tensor, references: Tensor) -> Iterator[Tensor]:
    """Of `rows` [n, f] to `references` [m, f]: [n, <= CHUNK] for each piece of the references, in their
    order; float64, >= 0.

    As |a|^2 + |b|^2 - 2 a.b, exact for whole numbers below 2^26 or so: 0 then means equality.
    """
    own = rows.double()
    squares = own.square().sum(1, keepdim=True)
    for part in references.split(CHUNK):
        others = part.double()
        yield (squares + others.square().sum(1) - 2 * own @ others.T).clamp(min=0)


def _radii(features: Tensor, neighbours: int) -> Tensor:
    """The squared distance [n] of each feature to its k-th nearest other one."""
    found = []
    for start in range(0, len(features), CHUNK):
        squares = torch.cat(list(squared_distances(features[start : start + CHUNK], features)), 1)
        squares.diagonal(start).fill_(torch.inf)  # itself
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
