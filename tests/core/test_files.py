"""A file is replaced as a whole, by any number of processes, and nothing is left of an attempt that
failed."""

import hashlib
import os
import socket
import subprocess
import sys

import pytest

from lapflow.util.files import ASIDE, file_sha256, remove_leftovers, replace_file


def test_the_hash_is_that_of_the_file(tmp_path):
    data = os.urandom(3 * 2**20 + 5)
    assert (
        replace_file(tmp_path / "a", data) == file_sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    )
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("point", ["fsync", "replace"])
def test_a_refusing_disk_leaves_the_old_content_and_nothing_aside(tmp_path, monkeypatch, point):
    replace_file(tmp_path / "a", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, point, full)
    with pytest.raises(OSError, match="No space"):
        replace_file(tmp_path / "a", b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"old"}


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    ).stdout.strip()
    host = socket.gethostname()
    for name in (
        f"{ASIDE}a-{host}-{dead}",
        f"{ASIDE}a-{host}-{os.getpid()}",
        f"{ASIDE}a-elsewhere-{dead}",
        f"{ASIDE}b-{host}-{dead}",
        "a",
    ):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [f"{ASIDE}a-{host}-{os.getpid()}", f"{ASIDE}a-elsewhere-{dead}", f"{ASIDE}b-{host}-{dead}", "a"]
    )
