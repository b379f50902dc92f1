"""Memorisation: does the model return its training images?

A sample is rounded to the set's grey levels first, as saving it would; then it counts as a **copy** of a
training image if

- it equals it (`exact`), or
- it is nearer to it than any two different real images of the set, training or held out, are to each other
  (`near`).

By this rule no held-out image is a copy, and no threshold has to be tuned: the data give it. On the digits
(distances are Euclidean, in grey levels) it is 5.3, while a held-out digit lies 9.1 to 34 from its nearest
training image, median 18, and a training digit with noise of half a grey level per pixel lies 4 from its
original. In a set with near duplicates the threshold is small, and the rule strict. Look at the medians too:
samples that are systematically nearer to the training images than held-out ones are a sign of memorisation
long before they are copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lapflow.core.errors import DataError
from lapflow.evaluation.distances import CHUNK, squared_distances


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
    """Compare `samples` with `training` images, and `held_out` images (may be empty) likewise; all [n, c, h,
    w] in [-1, 1].

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
    """For each row of `queries` [n, f] the Euclidean distance to the nearest row of `references` [m, f]: [n],
    float64.

    With `different`, to the nearest row that is not equal to it (infinite if there is none); for whole
    numbers that is exact.
    """
    found = []
    for rows in queries.split(CHUNK):
        best = torch.full((len(rows),), math.inf, dtype=torch.float64)
        for squares in squared_distances(rows, references):
            if different:
                squares = torch.where(squares == 0, math.inf, squares)
            best = torch.minimum(best, squares.min(1).values)
        found.append(best)
    return torch.cat(found).sqrt() if len(queries) else torch.empty(0, dtype=torch.float64)


def whole_levels(images: Tensor, grey_levels: int) -> Tensor:
    """Images [n, c, h, w] in [-1, 1] -> rounded, clipped grey levels [n, f], in one byte each where they
    fit."""
    levels = (images.detach().cpu().double() + 1) / 2 * grey_levels
    return (
        levels.clamp(0, grey_levels).round().flatten(1).to(torch.uint8 if grey_levels <= 255 else torch.int32)
    )
