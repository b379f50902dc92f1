"""Files that are whole or not there: written aside, flushed to the disk, renamed; their hashes; locks."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TextIO
from weakref import WeakSet

ASIDE = ".writing-"
"""How the names of what is not finished begin."""


def write_durably(path: Path, data: bytes) -> str:
    """Write and flush to the disk; returns the SHA-256 of the data."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def replace_file(path: Path, data: bytes) -> str:
    """Replace a file as a whole: readers see the old content or the new one. Returns the SHA-256 of the data.

    The name of what is written aside is this process's own, so that several processes, on several machines,
    may replace one file. What a refusing disk left of it is removed.
    """
    with replacing(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """As `replace_file`, for what is too large to hold in memory: a file to write to, which takes its name
    when all is written. An error within leaves the old file."""
    aside = path.with_name(f"{_aside(path)}{os.getpid()}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_line(path: Path, line: str, *, durably: bool = False) -> None:
    """Add a line in one write, so that it stays in one piece whoever else adds to the file, after the end of
    one that was torn. Raises `OSError`."""
    with path.open("ab+", buffering=0) as file:
        # on a file system without locks a blank line may come between two processes' lines
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        torn = b""
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = b"" if file.read(1) == b"\n" else b"\n"
        data = torn + line.encode() + b"\n"
        if file.write(data) < len(data):
            raise OSError("the disk is full")
        if durably:
            os.fsync(file.fileno())


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes of this machine left aside when they replaced `path`."""
    for left in path.parent.glob(f"{_aside(path)}*"):
        if not _alive(left.name.rsplit("-", 1)[1]):
            left.unlink(missing_ok=True)


def take_lock(path: Path) -> TextIO | None:
    """Lock the file `path`, made if need be, until what is returned is closed or this process ends, however
    it ends; None where another process holds it."""
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    _HELD.add(lock)
    return lock


_HELD: WeakSet[TextIO] = WeakSet()
"""The locks of this process. A child that it forks, such as one that reads images, would hold them too, and
for seconds after a kill -9 of its parent: it lets go of them at once."""


def _let_go() -> None:
    for lock in _HELD:
        lock.close()


os.register_at_fork(after_in_child=_let_go)


def sync_folder(path: Path) -> None:
    """Flush a folder's own entries, such as a rename in it, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, read piece by piece. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _aside(path: Path) -> str:
    """How the names begin of what processes of this machine write that is to become `path`."""
    return f"{ASIDE}{path.name}-{socket.gethostname()}-"


def _alive(pid: str) -> bool:
    """Whether a process of this machine may be running under the number `pid`."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        pass
    return True
