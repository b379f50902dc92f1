"""Euclidean distances between many vectors, in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lapflow.core.errors import DataError

CHUNK = 1024
"""Rows of a piece on either side: 8 MiB of float64."""


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


def require_same_length(a: int, b: int) -> None:
    """Raises `DataError` unless the features of two sets have one length."""
    if a != b:
        raise DataError(
            "the two sets have features of different lengths",
            got=f"{a} and {b}",
            expected="one extractor for both",
        )
