"""The processes that read ahead: when one dies, the run ends with the cause and not in silence."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from lapflow.core.errors import DataError

_REMEDIES = {
    signal.SIGKILL: "often the system was out of memory: lower training.workers or training.batch_size",
    signal.SIGBUS: "often the shared memory is too small: enlarge /dev/shm, or set training.workers=0",
}


def watched(loader: DataLoader[Any], rank: int) -> Iterator[Any]:
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
    while True:
        try:
            batch = next(source)
        except StopIteration:
            return
        except (
            RuntimeError,
            OSError,
            EOFError,
        ) as error:  # OSError: the tensors that it had ready are gone with it
            if dead := _dead(workers):
                raise _death(workers, dead, rank) from error
            raise
        yield batch


def unheeding(_: int) -> None:
    """What a worker does first: it leaves signals that ask a run to stop to the training process, which then
    ends its workers. Schedulers and terminals send them to all processes of a run."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _dead(workers: Sequence[BaseProcess]) -> list[BaseProcess]:
    """Those that have ended; what a dying one causes can be seen before its end."""
    ended = wait([worker.sentinel for worker in workers], timeout=1)
    dead = [worker for worker in workers if worker.sentinel in ended]
    for worker in dead:
        worker.join(timeout=5)  # its end is seen before its exit code is there
    return dead


def _death(workers: Sequence[BaseProcess], dead: Sequence[BaseProcess], rank: int) -> DataError:
    code = dead[0].exitcode
    ways = [f"worker {workers.index(worker)} (pid {worker.pid}) {_way(worker.exitcode)}" for worker in dead]
    unknown = "set training.workers=0 to see where it happens"
    return DataError(
        "a process that reads images died",
        where=f"rank {rank}",
        got="; ".join(ways),
        remedy=_REMEDIES.get(signal.Signals(-code), unknown) if code is not None and code < 0 else unknown,
    )


def _way(code: int | None) -> str:
    if code is None:
        return "closed its pipes"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
