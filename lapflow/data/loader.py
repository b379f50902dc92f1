"""Endless batches of a data set, the same whatever the number of workers and processes.

The order in which training sees the images is a pure function of (seed, samples consumed). The `position` of
a sample is how many samples, over all processes, came before it since training began. It decides the epoch,
the image and the flip, and is the key for whatever else is drawn for the sample. A run can thus be stopped
anywhere, also within an epoch, and go on with the next position; nothing but the count needs to be saved.
"""

from __future__ import annotations

import atexit
import functools
import math
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lapflow.core.dataset import Dataset, Split
from lapflow.core.errors import ConfigError, DataError, ImageError, LapflowError
from lapflow.data.quarantine import Read, Unreadable, read_or_substitute
from lapflow.util.random import keyed_generator, uniform_hash

CACHE_BYTES = 256 * 2**20
"""A split that takes less memory than this is kept once read; not by workers, as each would keep its own."""

Key = tuple[int, bool]
"""(index in the split, mirrored) of a sample."""

Content = tuple[Tensor, dict[str, list[Any]], tuple[Unreadable, ...]]
"""A batch's images, annotations and unreadable samples."""


@functools.lru_cache(maxsize=4)
def order(seed: int, size: int, epoch: int) -> Tensor:
    """The permutation [size] of the image indices in one epoch; not to be written to: it is kept."""
    return torch.randperm(size, generator=keyed_generator(seed, "order", epoch))


def place(seed: int, size: int, position: int) -> tuple[int, int]:
    """(epoch, image index) of the sample at `position` >= 0."""
    epoch, within = divmod(position, size)
    return epoch, int(order(seed, size, epoch)[within])


def indices(seed: int, size: int, start: int, stop: int) -> list[int]:
    """Image indices of the positions `start` to `stop` - 1. Epochs follow each other without a gap."""
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


class Batches:
    """Iterates for ever over a split in the order of `indices`, from the sample at position `consumed` on.

    `batch_size` counts the samples of all `world_size` processes; the process `rank` gets its contiguous
    slice of each batch. After n batches the run stands at `consumed + n batch_size`. `flip` mirrors each
    sample with probability one half. `workers` > 0 reads in that many processes ahead of need; the batches
    are the same bit for bit. An image that cannot be read is replaced by another (`read_or_substitute`), and
    the batch says so.

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
        self.batch_size, self.workers, self.rank = batch_size, workers, rank
        self.share = batch_size // world_size
        self.start = consumed + rank * self.share
        self.size = dataset.size(split)
        if self.size == 0:
            raise DataError(
                f"the {split} split is empty",
                expected="at least one image",
                remedy="check data.held_out, or add images",
            )

    def __iter__(self) -> Iterator[Batch]:
        for positions, (images, said, unreadable) in zip(self._positions(), self._contents()):
            yield Batch(images, said, positions, unreadable)

    def _positions(self) -> Iterator[list[int]]:
        start = self.start
        while True:
            yield list(range(start, start + self.share))
            start += self.batch_size

    def _keys(self) -> Iterator[list[Key]]:
        """The keys of each batch."""
        for positions in self._positions():
            found = indices(self.seed, self.size, positions[0], positions[-1] + 1)
            mirrored = [self.flip and flipped(self.seed, p) for p in positions]
            yield list(zip(found, mirrored, strict=True))

    def _contents(self) -> Iterator[Content]:
        size = 4 * (1 + self.flip) * self.size * math.prod(self.dataset.sample_shape)
        keep = size <= CACHE_BYTES
        return read_batches(self.dataset, self.split, self._keys(), self.workers, self.rank, keep=keep)


def read_batches(
    dataset: Dataset,
    split: Split,
    keys: Iterable[list[Key]],
    workers: int = 0,
    rank: int = 0,
    *,
    keep: bool = False,
) -> Iterator[Content]:
    """The samples, annotations and replaced ones of batch after batch of `keys`, read ahead by `workers`
    processes if any; if none, `keep` keeps each sample in memory once read.

    Raises `DataError` for an image that cannot be read and for which no other can, and when a worker dies;
    what else the data set raises.
    """
    read: Callable[..., Read] = functools.partial(read_or_substitute, dataset, split)
    if not workers:
        read = functools.cache(read) if keep else read
        yield from (_content(read, batch) for batch in keys)
        return
    # Everything is a function of the key, so the workers' random state is never used. DataLoader draws a base
    # seed for them all the same: from its own generator, to leave the global one alone.
    loader = DataLoader(
        _Reader(read),
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
        worker_init_fn=_leave_signals,
    )
    for result in _watched(loader, rank):
        if isinstance(result, LapflowError):
            raise result
        yield result


def load_split(dataset: Dataset, split: Split, max_images: int | None = None) -> tuple[Tensor, Tensor]:
    """The samples [n, c, h, w] and labels [n] of a split, or of `max_images` evenly spaced ones; n may be 0.

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


class _Reader(torch.utils.data.Dataset[Any]):
    """Batches by their keys, for workers. An error for the user is a value, to arrive as it was raised."""

    def __init__(self, read: Callable[..., Read]) -> None:
        self.read = read

    def __getitem__(self, keys: list[Key]) -> Content | LapflowError:
        try:
            return _content(self.read, keys)
        except LapflowError as error:
            return error


def _as_it_is(content: Any) -> Any:
    return content


def _content(read: Callable[..., Read], keys: list[Key]) -> Content:
    found = [read(*key) for key in keys]
    images = torch.stack([sample.value for sample, _ in found])
    said = _collected([sample.annotations for sample, _ in found])
    return images, said, tuple(one for _, one in found if one is not None)


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


# ---------------------------------------------------------------------- the processes that read ahead


def _leave_signals(_: int) -> None:
    """What a worker does first: it leaves signals that ask a run to stop to the training process, which then
    ends its workers. Schedulers and terminals send them to all processes of a run."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _watched(loader: DataLoader[Any], rank: int) -> Iterator[Any]:
    """The batches of `loader`, which has workers.

    Raises `DataError` within seconds of a worker's death (DataLoader looks every five), saying which, of
    which rank, and how it died. An exception that a worker raised arrives with its own type, its traceback in
    the message. A worker that hangs cannot be told from one that reads slowly.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    others = multiprocessing.active_children()
    source = iter(loader)
    workers = [child for child in multiprocessing.active_children() if child not in others]
    if threading.current_thread() is threading.main_thread():
        # DataLoader's own handler would raise RuntimeError wherever the main thread stands, far from here.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)
    end = functools.partial(_kill, workers)
    atexit.register(end)  # Python's own exit would send SIGTERM, which they leave alone, and wait for ever
    try:
        while True:
            try:
                batch = next(source)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:  # OSError: the tensors it had ready are gone
                death = _death(workers, rank)
                end()  # of a dead one's lock the others may wait for ever
                if death is not None:
                    raise death from error
                raise
            yield batch
    finally:
        atexit.unregister(end)


def _kill(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()


def _death(workers: Sequence[BaseProcess], rank: int) -> DataError | None:
    """What to tell of workers that have ended; what a dying one causes can be seen before its end."""
    ended = wait([worker.sentinel for worker in workers], timeout=1)
    dead = [(i, worker) for i, worker in enumerate(workers) if worker.sentinel in ended]
    if not dead:
        return None
    for _, worker in dead:
        worker.join(timeout=5)  # its end is seen before its exit code is there
    return DataError(
        "a process that reads images died",
        where=f"rank {rank}",
        got="; ".join(f"worker {i} (pid {worker.pid}) {_way(worker.exitcode)}" for i, worker in dead),
        remedy=_REMEDIES.get(dead[0][1].exitcode, "set training.workers=0 to see where it happens"),
    )


def _way(code: int | None) -> str:
    if code is None:
        return "closed its pipes"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


_REMEDIES: dict[int | None, str] = {
    -signal.SIGKILL: "often the system was out of memory: lower training.workers or training.batch_size",
    -signal.SIGBUS: "often the shared memory is too small: enlarge /dev/shm, or set training.workers=0",
}
"""By the exit code of a worker."""
