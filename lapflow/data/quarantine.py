"""The run's list of images that cannot be read, `quarantine.jsonl`, and the budget for them.

One JSON line for each: name, cause, substitute. All processes of a run append to the same file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from lapflow.core.errors import DataError, printable
from lapflow.data.substitute import Unreadable
from lapflow.util.files import append_line

QUARANTINE = "quarantine.jsonl"


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
            self._append(one)
        if self.count > self.allowed:
            raise self._over()
        return [one.name for one in new]

    def _append(self, one: Unreadable) -> None:
        line = json.dumps({"name": one.name, "cause": one.cause, "substitute": one.substitute})
        try:
            append_line(self.file, line, durably=True)
        except OSError as error:
            raise self._trouble("written", error) from error
        self._names[one.name] = None

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

    def _over(self) -> DataError:
        first = ", ".join(printable(name) for name in list(self._names)[:3])
        return DataError(
            "too many images cannot be read",
            where=str(self.file),
            got=f"{self.count} of {self.size}: {first}" + (", ..." if self.count > 3 else ""),
            expected=f"at most {self.allowed} (training.bad_images={self.budget:g})",
            remedy="fix or remove them, delete the list and continue; or start anew with a larger "
            "training.bad_images",
        )

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
