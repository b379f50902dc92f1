"""The sampler of a page: one thread, one drawing at a time, few that wait, none that nobody waits for."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from lapflow.core.errors import LapflowError
from lapflow.demo.painter import NotWantedError, Tell

MAX_WAITING = 4

ENDS = ("done", "error", "stopped")
"""The events after which a job tells nothing more."""

Work = Callable[[Tell, Callable[[], bool]], None]
"""What a job does, with the function it tells by and the one that says whether to give up."""


class BusyError(LapflowError):
    """As many drawings wait as may."""


class Job:
    """A piece of work in the queue. `tell` is called from the worker's thread with each event, the last being
    one of `ENDS`."""

    def __init__(self, work: Work, tell: Tell) -> None:
        self.work, self.tell, self.cancelled = work, tell, threading.Event()


class Worker:
    """A thread that does its jobs in turn, from `start` to `stop`."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self.max_waiting = max_waiting
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="painter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job in the queue, and tell it how many are before it. Raises `BusyError`."""
        with self._changed:
            if self._stopping:
                raise BusyError("the server is being stopped")
            before = len(self._waiting) + (self._running is not None)
            if before > self.max_waiting:
                raise BusyError(
                    "the sampler is busy",
                    got=f"{before} drawings that wait or are being made",
                    expected=f"one, and at most {self.max_waiting} that wait",
                    remedy="try again in a moment",
                )
            self._waiting.append(job)
            if before:
                job.tell({"event": "waiting", "before": before})
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """End a job that nobody waits for: at once if it has not begun, else before its next evaluation of
        the network."""
        with self._changed:
            job.cancelled.set()
            with suppress(ValueError):
                self._waiting.remove(job)
                self._tell_places()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        with self._changed:
            return self._running is None and not self._waiting

    def stop(self) -> None:
        """Take no more jobs and end those that there are; `join` waits for it."""
        with self._changed:
            self._stopping = True
            for job in self._waiting:
                job.tell({"event": "stopped"})
            self._waiting.clear()
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify()

    def join(self, timeout: float) -> bool:
        """Whether the thread came to its end within `timeout` seconds after `stop`."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job.work(job.tell, job.cancelled.is_set)
            except NotWantedError:
                job.tell({"event": "stopped"})
            except LapflowError as error:
                job.tell({"event": "error", "text": str(error)})
            except Exception as error:
                # The page says that something broke, the terminal what, and the next job runs.
                traceback.print_exc()
                text = f"the sampler failed: {type(error).__name__}; the terminal of the server says more"
                job.tell({"event": "error", "text": text})

    def _next(self) -> Job | None:
        """The next job; None at the end."""
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: self._stopping or self._waiting)
            if self._stopping:
                return None
            self._running = self._waiting.popleft()
            self._tell_places()
            return self._running

    def _tell_places(self) -> None:
        running = self._running is not None
        for i, job in enumerate(self._waiting):
            job.tell({"event": "waiting", "before": i + running})
