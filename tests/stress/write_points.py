"""Write points: every moment at which a process that writes to the disk may be killed with another result."""

import builtins
import io
import os
import signal
from functools import partial
from pathlib import Path

STEPS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "link", "truncate")
"""Functions of `os` that change what a later process finds."""


class Points:
    """The write points that this process has passed, by name; at the one with number `kill` (from 1) it dies
    by SIGKILL."""

    def __init__(self, kill: int | None = None) -> None:
        self.kill, self.names = kill, []

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)


class _Halves:
    """A file whose every write reaches the disk in two halves."""

    def __init__(self, file, name: str, points: Points) -> None:
        self._file, self._name, self._points = file, name, points

    def write(self, data) -> int:
        middle = len(data) // 2
        self._file.write(data[:middle])
        self._file.flush()
        self._points(f"half of {self._name}")
        self._file.write(data[middle:])
        self._file.flush()
        self._points(f"all of {self._name}")
        return len(data)

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def watch(folder: Path, points: Points) -> None:
    """From now on every step of this process that writes below `folder` passes `points`. There is no way
    back: for a child."""
    for name in STEPS:
        setattr(os, name, partial(_step, getattr(os, name), name, points))
    builtins.open = io.open = partial(_open, io.open, folder, points)


def _step(plain, name: str, points: Points, *args, **kwargs):
    shown = f"{name} {Path(args[0]).name if isinstance(args[0], str | os.PathLike) else ''}".strip()
    points(f"before {shown}")
    result = plain(*args, **kwargs)
    points(f"after {shown}")
    return result


def _open(plain, folder: Path, points: Points, file, mode="r", *args, **kwargs):
    inside = isinstance(file, str | os.PathLike) and Path(os.fspath(file)).is_relative_to(folder)
    if not inside or not set(mode) & set("wax+"):
        return plain(file, mode, *args, **kwargs)
    name = Path(os.fspath(file)).name
    points(f"before opening {name}")
    opened = plain(file, mode, *args, **kwargs)
    points(f"after opening {name}")
    return _Halves(opened, name, points)
