"""Endless batches of a data set, the same whatever the number of workers and processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lapflow.core.dataset import Dataset, Split
from lapflow.core.errors import ConfigError, DataError, ImageError, LapflowError
from lapflow.data.order import flipped, indices
from lapflow.data.substitute import Read, Unreadable, read_or_substitute
from lapflow.data.workers import unheeding, watched

CACHE_BYTES = 256 * 2**20
"""A split that takes less memory than this is kept decoded once read (without workers only: each would keep
its own)."""


Key = tuple[int, bool]
"""(index in the split, mirrored) of a sample."""


@dataclass(frozen=True)
class Batch:
    """`images` [b, c, h, w] float32 in [-1, 1] (or the moments that the set holds), what is said of each,
    {name: b values}, and each sample's position in the run's data order.

    `unreadable` are the samples among them that were replaced, each time they are.
    """

    images: Tensor
    annotations: dict[str, list[Any]]
    positions: list[int]
    unreadable: tuple[Unreadable, ...] = ()


Content = tuple[Tensor, dict[str, list[Any]], tuple[Unreadable, ...]]
"""A batch's images, annotations and unreadable samples."""


class Batches:
    """Iterates for ever over a split in the order of `lapflow.data.order`, from the sample at position
    `consumed` on.

    `batch_size` counts the samples of all `world_size` processes; the process `rank` gets its contiguous
    slice of each batch. After n batches the run stands at `consumed + n batch_size`. `flip` mirrors each
    sample with probability one half. `workers` > 0 reads in that many processes ahead of need; the batches
    are the same bit for bit. An image that cannot be read is replaced by another (`lapflow.data.substitute`),
    and the batch says so.

    Raises `ConfigError` when the batch does not divide among the processes, `DataError` for an empty split,
    and while iterating when an image and all that could replace it cannot be read, or when a worker dies.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        *,
        seed: int,
        batch_size: int,
        consumed: int = 0,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ConfigError(
                "the batch does not divide among the processes",
                got=f"batch_size {batch_size}",
                expected=f"a multiple of {world_size}",
            )
        assert 0 <= rank < world_size, f"rank {rank} of {world_size} processes"
        assert min(consumed, workers) >= 0, f"consumed {consumed} and workers {workers} cannot be negative"
        self.dataset, self.split, self.seed, self.flip = dataset, split, seed, flip
        self.batch_size, self.consumed, self.workers = batch_size, consumed, workers
        self.share = batch_size // world_size
        self.rank, self.first = rank, rank * self.share
        self.size = dataset.size(split)
        if self.size == 0:
            raise DataError(
                f"the {split} split is empty",
                expected="at least one image",
                remedy="check data.held_out, or add images",
            )

    def __iter__(self) -> Iterator[Batch]:
        source = self._read_ahead() if self.workers else self._read_here()
        for positions, (images, said, unreadable) in zip(self._positions(), source):
            yield Batch(images, said, positions, unreadable)

    def _positions(self) -> Iterator[list[int]]:
        start = self.consumed + self.first
        while True:
            yield list(range(start, start + self.share))
            start += self.batch_size

    def _keys(self) -> Iterator[list[Key]]:
        """The keys of each batch."""
        for positions in self._positions():
            found = indices(self.seed, self.size, positions[0], positions[-1] + 1)
            mirrored = [self.flip and flipped(self.seed, p) for p in positions]
            yield list(zip(found, mirrored, strict=True))

    def _read_ahead(self) -> Iterator[Content]:
        return read_batches(self.dataset, self.split, self._keys(), self.workers, self.rank)

    def _read_here(self) -> Iterator[Content]:
        needed = 4 * (1 + self.flip) * self.size * math.prod(self.dataset.sample_shape)
        if needed > CACHE_BYTES:
            yield from read_batches(self.dataset, self.split, self._keys())
            return
        reader = _Remembering(self.dataset, self.split, self.flip)
        for keys in self._keys():
            yield reader.batch(keys)


def read_batches(
    dataset: Dataset, split: Split, keys: Iterable[list[Key]], workers: int = 0, rank: int = 0
) -> Iterator[Content]:
    """The samples, annotations and replaced ones of batch after batch of `keys`, read ahead by `workers`
    processes if any.

    Raises `DataError` for an image that cannot be read and for which no other can, and when a worker dies;
    what else the data set raises.
    """
    if not workers:
        yield from (_stack([read_or_substitute(dataset, split, *key) for key in batch]) for batch in keys)
        return
    # Everything is a function of the key, so the workers' random state is never used. DataLoader draws a base
    # seed for them all the same: from its own generator, to leave the global one alone.
    loader = DataLoader(
        _Samples(dataset, split),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator(),
        worker_init_fn=unheeding,
    )
    for result in watched(loader, rank):
        if isinstance(result, LapflowError):
            raise result
        yield result


def load_split(dataset: Dataset, split: Split, max_images: int | None = None) -> tuple[Tensor, Tensor]:
    """The samples [n, c, h, w] and labels [n] of a split, or of `max_images` of them evenly spaced, in
    memory; n may be 0.

    Images that cannot be read are left out and none takes their place: a measure counts each real image once.
    Raises `ImageError` when none can be read.
    """
    images, labels, refused = load_images(dataset, split, spaced(dataset.size(split), max_images))
    if refused and not len(images):
        raise refused[-1][1]
    return images, labels


def load_images(
    dataset: Dataset, split: Split, indices: Iterable[int]
) -> tuple[Tensor, Tensor, list[tuple[int, ImageError]]]:
    """The samples [n, c, h, w] and labels [n] at `indices` of a split, and which of these cannot be read,
    with the cause. Label 0 where a sample has none."""
    images, labels, refused = [], [], []
    for index in indices:
        try:
            sample = dataset.read(split, index)
        except ImageError as error:
            refused.append((index, error))
            continue
        images.append(sample.value)
        labels.append(sample.annotations.get("label", 0))
    stacked = torch.stack(images) if images else torch.empty(0, *dataset.sample_shape)
    return stacked, torch.tensor(labels, dtype=torch.int64), refused


def spaced(size: int, max_images: int | None = None) -> list[int]:
    """At most `max_images` of the numbers 0 .. size - 1, evenly spaced."""
    count = size if max_images is None else min(max_images, size)
    return [i * size // count for i in range(count)]


class _Remembering:
    """Reads each sample once, when first asked for, and keeps it; with `flip` its mirrored variant too."""

    def __init__(self, dataset: Dataset, split: Split, flip: bool) -> None:
        variants, size = 1 + flip, dataset.size(split)
        self.dataset, self.split = dataset, split
        self.images = torch.empty(variants, size, *dataset.sample_shape)
        self.said: list[list[Mapping[str, Any] | None]] = [[None] * size for _ in range(variants)]
        self.unreadable: dict[int, Unreadable] = {}

    def batch(self, keys: Sequence[Key]) -> Content:
        for index, mirrored in keys:
            if self.said[mirrored][index] is None:
                sample, unreadable = read_or_substitute(self.dataset, self.split, index, mirrored)
                self.images[int(mirrored), index] = sample.value
                self.said[mirrored][index] = sample.annotations
                if unreadable is not None:
                    self.unreadable[index] = unreadable
        rows, variants = torch.tensor(keys).T
        replaced = tuple(self.unreadable[index] for index, _ in keys if index in self.unreadable)
        said = [self.said[mirrored][index] or {} for index, mirrored in keys]
        return self.images[variants, rows], _collected(said), replaced


class _Samples(torch.utils.data.Dataset[Any]):
    """The samples by key, for workers. An error for the user travels back as a value, so that it arrives as
    it was raised."""

    def __init__(self, dataset: Dataset, split: Split) -> None:
        self.dataset, self.split = dataset, split

    def __getitem__(self, key: Key) -> Read | LapflowError:
        try:
            return read_or_substitute(self.dataset, self.split, *key)
        except LapflowError as error:
            return error


def _collate(samples: Sequence[Read | LapflowError]) -> Content | LapflowError:
    good = []
    for sample in samples:
        if isinstance(sample, LapflowError):
            return sample
        good.append(sample)
    return _stack(good)


def _stack(samples: Sequence[Read]) -> Content:
    return (
        torch.stack([sample.value for sample, _ in samples]),
        _collected([sample.annotations for sample, _ in samples]),
        tuple(one for _, one in samples if one is not None),
    )


def _collected(said: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """{name: the annotation of each sample}. Raises `DataError` unless the same is said of every sample."""
    names = list(said[0]) if said else []
    if odd := next((one for one in said if one.keys() != said[0].keys()), None):
        raise DataError(
            "not every sample has the same annotations",
            got=", ".join(odd) or "none",
            expected=", ".join(names),
        )
    return {name: [one[name] for one in said] for name in names}
