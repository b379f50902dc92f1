"""What a run says while it goes on: events, kept as JSON lines and passed on to whoever watches."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lapflow.core.errors import BackendError
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
        except (ValueError, RecursionError):
            event = None
        yield event if _is_event(event) else None


def _is_event(event: Any) -> bool:
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return False
    return event["event"] not in ("train", "resume") or isinstance(event.get("step"), int)


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
