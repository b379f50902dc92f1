"""Memorisation: does the model return its training images?

A sample is rounded to the set's grey levels first, as saving it would; then it counts as a **copy** of a training image if

- it equals it (`exact`), or
- it is nearer to it than any two different real images of the set, training or held out, are to each other (`near`).

By this rule no held-out image is a copy, and no threshold has to be tuned: the data give it. On the digits (distances are
Euclidean, in grey levels) it is 5.3, while a held-out digit lies 9.1 to 34 from its nearest training image, median 18,
and a training digit with noise of half a grey level per pixel lies 4 from its original. In a set with near duplicates
the threshold is small, and the rule strict. Look at the medians too: samples that are systematically nearer to the
training images than held-out ones are a sign of memorisation long before they are copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lapflow.core.errors import DataError

_CHUNK = 1024


@dataclass(frozen=True)
class CopyReport:
    """Distances in grey levels, Euclidean over all pixels; None where there are no held-out images.

    `copies` = `exact` + `near` of `samples`; `threshold`: the distance between the two most similar different real images.
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
    """Compare `samples` with `training` images, and `held_out` images (may be empty) likewise; all [n, c, h, w] in [-1, 1].

    Costs (training + held out)^2 + samples x training distances. Raises `DataError` without samples, or with fewer than
    two training images.
    """
    if len(samples) < 1 or len(training) < 2:
        raise DataError(
            "copies cannot be looked for", got=f"{len(samples)} samples, {len(training)} training images", expected="at least 1 and 2"
        )
    made, seen, unseen = (_levels(images, grey_levels) for images in (samples, training, held_out))
    nearest = nearest_distances(made, seen)
    real = torch.cat([seen, unseen])
    threshold = nearest_distances(real, real, different=True).min().item()
    control = nearest_distances(unseen, seen)
    return CopyReport(
        samples=len(made),
        exact=int((nearest == 0).sum()),
        near=int(((nearest > 0) & (nearest < threshold)).sum()),
        threshold=threshold,
        closest=nearest.min().item(),
        median=nearest.median().item(),
        held_out_closest=control.min().item() if len(control) else None,
        held_out_median=control.median().item() if len(control) else None,
    )


def nearest_distances(queries: Tensor, references: Tensor, different: bool = False) -> Tensor:
    """For each row of `queries` [n, f] the Euclidean distance to the nearest row of `references` [m, f]; whole numbers in float64.

    With `different`, to the nearest row that is not equal to it (infinite if there is none). Whole numbers below 2^26 or so
    keep |a|^2 + |b|^2 - 2 a.b exact, so that 0 means equality.
    """
    squares = references.square().sum(1)
    found = []
    for rows in queries.split(_CHUNK):
        best = torch.full((len(rows),), math.inf, dtype=torch.float64)
        for others, norms in zip(references.split(_CHUNK), squares.split(_CHUNK), strict=True):
            distance = rows.square().sum(1, keepdim=True) + norms - 2 * rows @ others.T
            if different:
                distance = torch.where(distance == 0, math.inf, distance)
            best = torch.minimum(best, distance.min(1).values)
        found.append(best)
    return torch.cat(found).sqrt() if found else torch.empty(0, dtype=torch.float64)


def _levels(images: Tensor, grey_levels: int) -> Tensor:
    """Images [n, c, h, w] in [-1, 1] -> rounded, clipped grey levels [n, f], float64."""
    levels = (images.detach().cpu().double() + 1) / 2 * grey_levels
    return levels.clamp(0, grey_levels).round().flatten(1)
