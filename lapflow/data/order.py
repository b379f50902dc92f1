"""The order in which training sees the images: a pure function of (seed, samples consumed).

The `position` of a sample is how many samples, over all processes, came before it since training began. It
decides the epoch, the image and the flip, and it is the key for whatever else is drawn for the sample. A run
can thus be stopped anywhere, also within an epoch, and go on with the next position; nothing but the count
needs to be saved.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from lapflow.data.split import uniform_hash
from lapflow.util.random import keyed_generator


@functools.lru_cache(maxsize=4)
def order(seed: int, size: int, epoch: int) -> Tensor:
    """The permutation [size] of the image indices in one epoch; do not write to it, it is kept for the next
    call."""
    return torch.randperm(size, generator=keyed_generator(seed, "order", epoch))


def place(seed: int, size: int, position: int) -> tuple[int, int]:
    """(epoch, image index) of the sample at `position` >= 0."""
    epoch, within = divmod(position, size)
    return epoch, int(order(seed, size, epoch)[within])


def indices(seed: int, size: int, start: int, stop: int) -> list[int]:
    """Image indices of the positions `start` to `stop` - 1. A range may cross epochs: no image is left out at
    an end."""
    found: list[int] = []
    while start < stop:
        epoch, within = divmod(start, size)
        count = min(size - within, stop - start)
        found += order(seed, size, epoch)[within : within + count].tolist()
        start += count
    return found


def flipped(seed: int, position: int) -> bool:
    """Whether the sample at `position` is mirrored, with probability one half."""
    return uniform_hash(seed, "flip", position) < 0.5
