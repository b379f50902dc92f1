"""Images that cannot be read: what takes their place, the run's list of them, and the budget for them.

Another image of the same split takes the place of each. The list, `quarantine.jsonl`, has one JSON line for
each: name, cause, substitute. All processes of a run append to the same file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lapflow.core.dataset import Dataset, Sample, Split
from lapflow.core.errors import DataError, ImageError, printable
from lapflow.util.files import append_line
from lapflow.util.random import uniform_hash

QUARANTINE = "quarantine.jsonl"
TRIES = 16
"""How many others are tried. Should a third of a set be bad, one image in 40 million finds no substitute."""


@dataclass(frozen=True)
class Unreadable:
    """A replaced image: its `name` and `index` in the split, the `cause` in one line, what replaced it."""

    name: str
    index: int
    cause: str
    substitute: str


Read = tuple[Sample, Unreadable | None]
"""A sample, and what it stands in for."""


def read_or_substitute(dataset: Dataset, split: Split, index: int, mirrored: bool = False) -> Read:
    """Image `index` of a split, `mirrored` or not, or where reading it raises `ImageError` the first of
    `substitutes` that can be read, with that one's annotations.

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
    """Up to `TRIES` other indices below `size`, all different, in the order in which they are tried: a pure
    function, whatever the number of workers and processes, and after a resume."""
    tried, draw = {index}, 0
    while len(tried) < min(size, TRIES + 1):
        other = int(uniform_hash("substitute", split, index, draw) * size)
        draw += 1
        if other not in tried:
            tried.add(other)
            yield other


class Quarantine:
    """Opens the list in `file`, which need not exist, for a training set of `size` images of which the share
    `budget` may be bad.

    What an earlier part of the run wrote counts; a line cut off by a crash does not. Raises `DataError` when
    the file cannot be read.
    """

    def __init__(self, file: Path, size: int, budget: float) -> None:
        self.file, self.size, self.budget = file, size, budget
        self._names: dict[str, None] = {}
        self._read = 0
        self._catch_up()

    @property
    def count(self) -> int:
        """How many different images this process knows to be listed."""
        return len(self._names)

    @property
    def allowed(self) -> int:
        """How many may be: the budget's share, but one where it allows any; none where it is 0."""
        return max(1, int(self.budget * self.size + 1e-9)) if self.budget > 0 else 0

    def add(self, unreadable: Iterable[Unreadable]) -> list[str]:
        """Lists those not listed yet, flushed to the disk, and returns their names.

        Raises `DataError` when one of them, new or not, comes while more are listed than `allowed`, or when
        the disk refuses.
        """
        met = {one.name: one for one in unreadable}
        if not met:
            return []
        if any(name not in self._names for name in met):
            self._catch_up()  # another process may have listed it
        new = [one for name, one in met.items() if name not in self._names]
        for one in new:
            line = json.dumps({"name": one.name, "cause": one.cause, "substitute": one.substitute})
            try:
                append_line(self.file, line, durably=True)
            except OSError as error:
                raise self._trouble("written", error) from error
            self._names[one.name] = None
        if self.count > self.allowed:
            first = ", ".join(printable(name) for name in list(self._names)[:3])
            raise DataError(
                "too many images cannot be read",
                where=str(self.file),
                got=f"{self.count} of {self.size}: {first}" + (", ..." if self.count > 3 else ""),
                expected=f"at most {self.allowed} (training.bad_images={self.budget:g})",
                remedy="fix or remove them, delete the list and continue; or start anew with a larger "
                "training.bad_images",
            )
        return [one.name for one in new]

    def _catch_up(self) -> None:
        """Reads what was appended since the last time, whole lines only."""
        try:
            with self.file.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._trouble("read", error) from error
        *lines, torn = new.split(b"\n")
        self._read += len(new) - len(torn)
        for line in lines:
            try:
                self._names[json.loads(line)["name"]] = None
            except (ValueError, TypeError, KeyError):  # torn by a crash, or not ours
                continue

    def _trouble(self, what: str, error: OSError) -> DataError:
        return DataError(
            f"the list of unreadable images cannot be {what}",
            where=str(self.file),
            got=error.strerror or error,
            remedy="free some space, or check the folder's permissions",
        )


def listed(file: Path) -> int:
    """How many different images a run's list holds; 0 without a list."""
    return Quarantine(file, 0, 0).count
