"""A reading process that dies ends the iteration with who, how and what to do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch

from lapflow.core.errors import DataError
from lapflow.data import Batches, Digits

pytestmark = pytest.mark.usefixtures("no_hang")

FATES = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "leave": lambda: os._exit(0),
    "fail": lambda: os._exit(3),
}


class Deadly(Digits):
    """Digits, until the process that reads them meets its fate at its read number `at`."""

    def __init__(self, *, fate: str = "", at: int = 1) -> None:
        super().__init__()
        self.fate, self.at, self.reads = fate, at, 0

    def read(self, split, index):
        self.reads += 1
        if self.reads == self.at:
            FATES[self.fate]()
        return super().read(split, index)


def read_on(batches):
    for _ in batches:
        pass


@pytest.mark.parametrize("at", [1, 40])
@pytest.mark.parametrize(
    ("fate", "way"),
    [("kill", "was killed by SIGKILL"), ("leave", "exited with code 0"), ("fail", "exited with code 3")],
)
def test_a_death_while_reading(fate, way, at):
    """At the first image nothing is ready yet; at the fortieth a batch of the dead may be, and is lost with
    it."""
    batches = Batches(
        Deadly(fate=fate, at=at), "train", seed=0, batch_size=32, rank=1, world_size=2, workers=2
    )
    with pytest.raises(DataError, match="a process that reads images died") as error:
        read_on(batches)
    assert error.value.where == "rank 1"
    assert way in error.value.got
    assert "worker " in error.value.got
    assert "training.workers" in error.value.remedy
    assert ("memory" in error.value.remedy) == (fate == "kill")


def test_a_death_from_outside_while_the_run_is_elsewhere():
    """The main process is not interrupted where it stands: the next batches tell."""
    others = multiprocessing.active_children()
    batches = iter(Batches(Digits(), "train", seed=0, batch_size=16, workers=2))
    next(batches)
    workers = [child for child in multiprocessing.active_children() if child not in others]
    assert len(workers) == 2
    os.kill(workers[1].pid, signal.SIGKILL)
    workers[1].join()
    torch.ones(1000).sum()  # the signal has been delivered by now, and raised nothing
    with pytest.raises(DataError) as error:
        read_on(batches)
    assert error.value.got == f"worker 1 (pid {workers[1].pid}) was killed by SIGKILL"
    workers[0].join(timeout=20)
    assert workers[0].exitcode == -signal.SIGKILL, "nothing is left to wait for when the program ends"


def test_a_program_ends_while_its_workers_wait():
    """They leave SIGTERM alone, which is what Python sends to child processes when it ends."""
    program = """
from lapflow.data import Batches, Digits
batches = iter(Batches(Digits(), "train", seed=0, batch_size=16, workers=2))
next(batches)
raise SystemExit(7)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 7


def test_a_handler_of_the_programs_own_is_left_in_place():
    seen = []
    before = signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
    try:
        mine = signal.getsignal(signal.SIGCHLD)
        next(iter(Batches(Digits(), "train", seed=0, batch_size=16, workers=1)))
        assert signal.getsignal(signal.SIGCHLD) is mine
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_runtime_error_of_a_living_worker_is_itself():
    class Buggy(Digits):
        def read(self, split, index):
            raise RuntimeError("the plugin's own trouble")

    with pytest.raises(RuntimeError, match="the plugin's own trouble"):
        next(iter(Batches(Buggy(), "train", seed=0, batch_size=4, workers=1)))
