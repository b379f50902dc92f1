"""A walk over many images in blocks, shared out over processes, that goes on where it was stopped.

Every process keeps its own part, a file that is replaced as a whole now and then. A part says which blocks it
holds, so that after a kill any number of processes can go on: the parts that are there are taken up, and the
blocks in none of them dealt out anew. Blocks are the same whatever the number of processes, and what a block
gives is a function of the block, so only the order in which parts are added up differs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor

from lapflow.core.engine import Engine
from lapflow.core.errors import CheckpointError, DataError
from lapflow.core.files import take_lock
from lapflow.evaluation.tally import Tally

FOLDER, LOCK = "evaluation", ".evaluating"
"""In the folder of the results: what interrupted walks left, and the file that says that somebody works
there."""

PARTS = "part-*.safetensors"


class Bench:
    """Where an evaluation into the folder `out` keeps its unfinished work, and the processes (`engine`) that
    share it.

    Every `save_every` seconds of a walk its part is saved. Raises `CheckpointError` where another evaluation
    works in `out`, `DataError` where nothing can be written. Collective.
    """

    def __init__(self, out: Path, engine: Engine, save_every: float) -> None:
        self.out, self.engine, self.save_every = out, engine, save_every
        self.used: list[Path] = []
        self._lock: TextIO | None = None
        engine.first(self._open)

    def walk(self, name: str, settings: Mapping[str, Any], count: int, size: int) -> Walk:
        """A walk over `count` images in blocks of `size`; `settings` are all that its result depends on, as
        JSON values."""
        key = hashlib.sha256(json.dumps([settings, count, size], sort_keys=True).encode()).hexdigest()
        folder = self.out / FOLDER / f"{name}-{key[:12]}"
        self.used.append(folder)
        return Walk(folder, key, count, size, self.engine, self.save_every)

    def clear(self) -> None:
        """Remove what the walks kept: all is done. Collective."""
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
        left = self.out / FOLDER
        if left.is_dir() and not any(left.iterdir()):
            left.rmdir()


class Walk:
    """Made by `Bench.walk`. Use: `begin`, then `for block, rows in walk: walk.add(block, ...)`, then
    `finish`.

    `mine` counts the images of this process's share, `done` those of them that earlier attempts had done.
    What `before_saving` does is on the disk before a part says that its blocks are done.
    """

    def __init__(
        self, folder: Path, key: str, count: int, size: int, engine: Engine, save_every: float
    ) -> None:
        self.folder, self.key, self.count, self.size = folder, key, count, size
        self.engine, self.save_every = engine, save_every
        self.blocks = -(-count // size)
        self.tally = Tally()
        self.before_saving: Callable[[], None] = lambda: None
        self._todo: list[int] = []
        self.done = self.mine = 0

    def begin(self, *, forget: bool = False) -> None:
        """Take up what earlier attempts left; or, with `forget` on the first process, remove it.
        Collective."""
        parts: list[tuple[str, list[int]]] = self.engine.exchange(
            self.engine.first(lambda: self._parts(forget))
        )[0]
        held = {block for _, blocks in parts for block in blocks}
        self._todo = [block for block in range(self.blocks) if block not in held][
            self.engine.rank :: self.engine.world_size
        ]
        self.engine.jointly(lambda: self._take_up(parts))
        self.done = sum(len(self.rows(block)) for block in self.tally.blocks)
        self.mine = self.done + sum(len(self.rows(block)) for block in self._todo)
        self._saved = time.monotonic()

    def rows(self, block: int) -> range:
        """The numbers of the images in a block."""
        return range(block * self.size, min((block + 1) * self.size, self.count))

    def __iter__(self) -> Iterator[tuple[int, range]]:
        """This process's blocks that are still to be done, and their images."""
        for block in self._todo:
            yield block, self.rows(block)

    def add(self, block: int, features: Tensor | None, rows: Mapping[str, Tensor]) -> None:
        """Keep what a block gave (`Tally.add`), and save all of it if it is time."""
        self.tally.add(block, features, rows)
        if time.monotonic() - self._saved >= self.save_every:
            self.save()

    def save(self) -> None:
        """Put this process's part on the disk, as a whole."""
        with writing(self.folder):
            self.before_saving()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.tally.write(self.path, self.key)
        self._saved = time.monotonic()

    def finish(self) -> Tally:
        """The tally of all blocks, on the first process; on the others their own. Collective."""
        if self.engine.world_size == 1:
            if time.monotonic() - self._saved >= self.save_every:
                self.save()
            return self.tally
        self.engine.jointly(self.save)
        return self.engine.first(self._merged) or self.tally

    def _parts(self, forget: bool) -> list[tuple[str, list[int]]]:
        """(file, blocks) of the parts that earlier attempts left whole. Others are removed, and so are those
        that were merged into another by a process that was killed before it removed them."""
        found = {path: Tally.read(path, self.key) for path in sorted(self.folder.glob(PARTS))}
        blocks = {path: tally.blocks for path, tally in found.items() if tally is not None and not forget}
        kept: list[tuple[str, list[int]]] = []
        held: set[int] = set()
        for path in sorted(blocks, key=lambda path: -len(blocks[path])):
            if not blocks[path] & held:
                held |= blocks[path]
                kept.append((path.name, sorted(blocks[path])))
        with writing(self.folder):
            for path in found:
                if path.name not in {name for name, _ in kept}:
                    path.unlink()
        return kept

    def _take_up(self, parts: list[tuple[str, list[int]]]) -> None:
        """Go on with this process's share of the parts, or begin one."""
        rank, processes = self.engine.rank, self.engine.world_size
        own = [self.folder / name for name, _ in parts[rank::processes]]
        taken = {name for name, _ in parts}
        free = [
            name for i in range(len(parts) + processes) if (name := f"part-{i:05d}.safetensors") not in taken
        ]
        self.path = own[0] if own else self.folder / free[rank - len(parts)]
        for path in own:
            if (tally := Tally.read(path, self.key)) is None:
                raise _vanished(path)
            self.tally.merge(tally)
        if len(own) > 1:
            self.save()
            for path in own[1:]:
                path.unlink()

    def _merged(self) -> Tally:
        whole = Tally()
        for path in sorted(self.folder.glob(PARTS)):
            if (part := Tally.read(path, self.key)) is None:
                raise _vanished(path)
            whole.merge(part)
        if len(whole.blocks) < self.blocks:
            raise _vanished(self.folder)
        return whole


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Gives what the disk refuses a name and a remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the evaluation cannot be written: {error.strerror or error}",
            got=str(error.filename or where),
            remedy="free some space or mend the folder, and repeat the command: it goes on where it was",
        ) from error


def _vanished(path: Path) -> DataError:
    return DataError(
        "a part of the evaluation is missing or damaged",
        got=str(path),
        expected="a folder that all processes see, and nobody else changes",
        remedy="repeat the command: what is missing is made anew",
    )
