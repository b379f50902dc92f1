"""What takes the place of an image that cannot be read: another of the same split, with its own annotations.

The substitute is a pure function of (split, index): whatever the number of workers and processes, and after a
resume, the same image stands in for the same bad one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lapflow.core.dataset import Dataset, Sample, Split
from lapflow.core.errors import DataError, ImageError, printable
from lapflow.data.split import uniform_hash

TRIES = 16
"""How many others are tried. Should a third of a set be bad, one image in 40 million finds no substitute."""


@dataclass(frozen=True)
class Unreadable:
    """An image that was replaced: its `name` and `index` in the split, the `cause` in one line, the
    `substitute`'s name."""

    name: str
    index: int
    cause: str
    substitute: str


Read = tuple[Sample, Unreadable | None]
"""A sample, and what it stands in for."""


def read_or_substitute(dataset: Dataset, split: Split, index: int, mirrored: bool = False) -> Read:
    """Image `index` of a split, `mirrored` or not, or where reading it raises `ImageError` the first of
    `substitutes` that can be read.

    Raises `DataError` with the first image's cause when none can. Other exceptions are bugs, or a lack of
    something that the images cannot help, and pass.
    """
    read = dataset.read_mirrored if mirrored else dataset.read
    try:
        return read(split, index), None
    except ImageError as error:
        refused = error
    cause = printable(str(refused.what if refused.got is None else refused.got))
    for other in substitutes(split, index, dataset.size(split)):
        try:
            sample = read(split, other)
        except ImageError:
            continue
        return sample, Unreadable(dataset.name(split, index), index, cause, dataset.name(split, other))
    raise DataError(
        f"an image cannot be read, and of {TRIES} others tried in its place none can",
        where=refused.where or printable(dataset.name(split, index)),
        got=cause,
        remedy="check that the data is there as a whole, and its permissions",
    ) from refused


def substitutes(split: Split, index: int, size: int) -> Iterator[int]:
    """Up to `TRIES` other indices below `size`, all different, in the order in which they are tried."""
    tried, draw = {index}, 0
    while len(tried) < min(size, TRIES + 1):
        other = int(uniform_hash("substitute", split, index, draw) * size)
        draw += 1
        if other not in tried:
            tried.add(other)
            yield other
