"""A loop over many images in blocks, shared out over processes, that goes on where it was stopped.

Each finished block is a file, whole or not there: safetensors that say what they are of and are known to be
whole. After a kill any number of processes go on: the blocks that are there stay, the others are dealt out
anew. Blocks are the same whatever the number of processes, what a block gives is a function of the block, and
blocks are read in their order: so the result is the same to the bit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from lapflow.core.engine import Engine
from lapflow.core.errors import CheckpointError, DataError
from lapflow.util.digest import tensors_sha256
from lapflow.util.files import replace_file, take_lock

FOLDER, LOCK = "evaluation", ".evaluating"
"""In the folder of the results: what interrupted loops left, and the file that says that somebody works
there."""

BLOCKS = "block-*.safetensors"

Progress = Callable[[int], Any]
"""Called with the number of images done after each block."""

Counter = Callable[[str, int], AbstractContextManager[Progress]]
"""Shows a loop: (what is done, how many images) -> the function that counts them."""


@contextmanager
def uncounted(what: str, total: int) -> Iterator[Progress]:
    """Shows nothing."""
    yield lambda count: None


class Workspace:
    """Where an evaluation into the folder `out` keeps its unfinished work, and the processes (`engine`) that
    share it; the first one shows its progress by `counter`, the others' is much the same.

    Raises `CheckpointError` where another evaluation works in `out`, `DataError` where nothing can be
    written. Collective.
    """

    def __init__(self, out: Path, engine: Engine, counter: Counter = uncounted) -> None:
        self.out, self.engine = out, engine
        self.counter = counter if engine.rank == 0 else uncounted
        self.used: list[Path] = []
        self._lock: TextIO | None = None
        engine.first(self._open)

    def loop(
        self,
        name: str,
        what: str,
        settings: Mapping[str, Any],
        count: int,
        size: int,
        make: Callable[[range], Mapping[str, Tensor]],
    ) -> ResumableLoop:
        """Do all blocks of `size` of `count` images: `make` gives the tensors of the images numbered so.

        `settings` are all that they depend on, as JSON values; `what` is said to `counter`. Collective.
        """
        key = hashlib.sha256(json.dumps([settings, count, size], sort_keys=True).encode()).hexdigest()
        loop = ResumableLoop(self.out / FOLDER / f"{name}-{key[:12]}", key, count, size)
        self.used.append(loop.folder)
        rank, processes = self.engine.rank, self.engine.world_size
        mine = range(rank, loop.blocks, processes)
        missing = self.engine.jointly(lambda: [block for block in mine if loop.read(block) is None])
        todo = sorted(block for blocks in self.engine.exchange(missing) for block in blocks)[rank::processes]
        done = sum(len(loop.rows(block)) for block in set(mine) - set(missing))

        def go(progress: Progress) -> None:
            if done:
                progress(done)
            for block in todo:
                rows = loop.rows(block)
                write_sealed(loop.path(block), make(rows), {"key": key})
                progress(len(rows))

        with self.counter(what, done + sum(len(loop.rows(block)) for block in todo)) as progress:
            self.engine.jointly(lambda: go(progress))
        return loop

    def clear(self) -> None:
        """Remove what the loops kept: all is done. Collective."""
        self.engine.first(self._clear)

    def close(self) -> None:
        """Let the folder go."""
        if self._lock is not None:
            self._lock.close()

    def _open(self) -> None:
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.out / LOCK)
        if self._lock is None:
            raise CheckpointError(
                "the output folder is in use",
                got=f"another evaluation writes to {self.out}",
                expected="a folder of its own for each",
                remedy="choose another --out, or wait",
            )

    def _clear(self) -> None:
        for folder in self.used:
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # there are blocks of another evaluation, or none were kept
            (self.out / FOLDER).rmdir()


class ResumableLoop:
    """The blocks on the disk. Made by `Workspace.loop`."""

    def __init__(self, folder: Path, key: str, count: int, size: int) -> None:
        self.folder, self.key, self.count, self.size = folder, key, count, size
        self.blocks = -(-count // size)

    def rows(self, block: int) -> range:
        """The numbers of the images in a block."""
        return range(block * self.size, min((block + 1) * self.size, self.count))

    def path(self, block: int) -> Path:
        return self.folder / BLOCKS.replace("*", f"{block:08d}")

    def read(self, block: int, *names: str) -> dict[str, Tensor] | None:
        """Those of a block's tensors (default: all); None for a missing, damaged or another loop's file."""
        try:
            head, tensors = read_sealed(self.path(block), *names)
        except (OSError, ValueError):
            return None
        return tensors if head.get("key") == self.key else None

    def each(self, *names: str) -> Iterator[dict[str, Tensor]]:
        """Those of the tensors called `names` that each block has, block by block. Raises `DataError`."""
        for block in range(self.blocks):
            if (tensors := self.read(block, *names)) is None:
                raise DataError(
                    "a block of the evaluation is missing or damaged",
                    got=str(self.path(block)),
                    expected="a folder that all processes see, and nobody else changes",
                    remedy="repeat the command: what is missing is made anew",
                )
            yield tensors

    def column(self, name: str) -> Tensor:
        """What is called `name` in all blocks, one after the other."""
        return torch.cat([tensors[name] for tensors in self.each(name)])


def write_sealed(path: Path, tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> None:
    """Write a safetensors file durably, whole or not at all. `head` are JSON values. Raises `DataError` where
    the disk refuses."""
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps({**head, "tensors": {name: tensors_sha256({name: kept[name]}) for name in kept}})
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, save_tensors(kept, metadata={"lapflow": text}))


def read_sealed(path: Path, *names: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The head, and those of the tensors called `names` that there are (default: all); both are empty for a
    file of another kind. Raises `OSError`, or `ValueError` for a file that is damaged."""
    try:
        with safe_open(path, "pt") as file:
            head = json.loads((file.metadata() or {}).get("lapflow", "{}"))
            if not isinstance(head, dict) or not isinstance(head.get("tensors"), dict):
                return {}, {}
            known = head["tensors"]
            tensors = {name: file.get_tensor(name) for name in names or known if name in known}
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if any(known[name] != tensors_sha256({name: value}) for name, value in tensors.items()):
        raise ValueError("its numbers are not those that were written")
    return head, tensors


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Gives what the disk refuses a name and a remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the evaluation cannot be written: {error.strerror or error}",
            got=str(error.filename or where),
            remedy="free some space or fix the folder, and repeat the command: it goes on where it was",
        ) from error
