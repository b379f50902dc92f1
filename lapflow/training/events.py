"""What a run says and hears: events, kept as JSON lines and passed on, and signals to end in good order."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from lapflow.core.errors import BackendError, LapflowError
from lapflow.util.files import append_line

Event = dict[str, Any]
Watcher = Callable[[Event], None]


class EventLog:
    """Appends events to `folder/log.jsonl`, passes them to `watch`, and training metrics to TensorBoard if
    asked. Without a folder it is silent: that of a process that leaves the telling to the first one.

    What cannot be written does not stop a run: each of the three says so once on stderr, and is tried again
    at the next event. Of the watcher's errors only the system's count as such (a reader that has gone, a full
    disk); others are its own and raised.
    """

    def __init__(
        self, folder: Path | None, watch: Watcher = lambda event: None, tensorboard: bool = False
    ) -> None:
        self.folder, self.watch, self.failed = folder, watch, set[str]()
        self.writer = summary_writer()(str(folder / "tensorboard")) if folder and tensorboard else None

    def __call__(self, event: Event) -> None:
        if self.folder is None:
            return
        with self._spared("log.jsonl", OSError):
            append_line(self.folder / "log.jsonl", json.dumps(event))
        if self.writer is not None and event["event"] == "train":
            with self._spared("TensorBoard", Exception):
                for key, value in event.items():
                    if isinstance(value, float):
                        self.writer.add_scalar(f"train/{key}", value, event["step"])
        with self._spared("the progress shown", OSError):
            self.watch(event)

    def close(self) -> None:
        if self.writer is not None:
            with self._spared("TensorBoard", Exception):
                self.writer.close()

    @contextmanager
    def _spared(self, what: str, errors: type[Exception]) -> Iterator[None]:
        try:
            yield
        except errors as error:
            if what not in self.failed:
                self.failed.add(what)
                with suppress(OSError):
                    print(f"lapflow: {what} cannot be written ({error}); training goes on", file=sys.stderr)


def read_events(folder: Path) -> list[Event]:
    """The events of a run. A resumed run repeats the steps after its checkpoint; the later word stands. Lines
    that cannot be read are passed over: the log is for people, and nothing is computed from it."""
    events: list[Event] = []
    for event in _lines(folder):
        if event is None:
            continue
        if event["event"] == "start":  # a run that was killed before its first checkpoint began anew
            events = []
        if event["event"] == "resume":
            events = [e for e in events if e["event"] != "train" or e["step"] <= event["step"]]
        events.append(event)
    return events


def unreadable_lines(folder: Path) -> int:
    """How many lines `read_events` passes over: of a kill while one was written, or of later damage."""
    return sum(event is None for event in _lines(folder))


def _lines(folder: Path) -> Iterator[Event | None]:
    """The event of each line; None for a line that holds none."""
    file = folder / "log.jsonl"
    for line in file.read_bytes().splitlines() if file.is_file() else ():
        try:
            event = json.loads(line)
            whole = isinstance(event["event"], str)
            if event["event"] in ("train", "resume"):
                whole = isinstance(event["step"], int)
        except (ValueError, TypeError, KeyError, RecursionError):
            whole = False
        yield event if whole else None


def summary_writer() -> Any:
    """TensorBoard's writer class. Raises `BackendError` where the extra is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BackendError(
            f"training.tensorboard needs TensorBoard: {error}",
            remedy="pip install 'lapflow[tensorboard]', or set it to false",
        ) from None
    return SummaryWriter


TERMINATED = 143
"""The exit code of a run that was asked to stop: 128 + SIGTERM, to schedulers 'ended by request'."""

HEEDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StoppedError(LapflowError):
    """The run was asked to stop, and saved."""

    exit_code = TERMINATED


class Signals:
    """Within the context SIGTERM, SIGUSR1 and Ctrl-C only set `received`; a second Ctrl-C interrupts as ever.

    Outside the main thread, where Python lets nobody handle signals, they are left as they are.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in HEEDED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
