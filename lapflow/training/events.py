"""What a run says while it goes on: events, kept as JSON lines and passed on to whoever watches."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lapflow.core.errors import BackendError

Event = dict[str, Any]
Watcher = Callable[[Event], None]


class EventLog:
    """Appends events to `log.jsonl`, passes them to `watch`, and training metrics to TensorBoard if asked."""

    def __init__(self, folder: Path, watch: Watcher, tensorboard: bool) -> None:
        self.watch = watch
        self.writer = summary_writer()(str(folder / "tensorboard")) if tensorboard else None
        self.file = (folder / "log.jsonl").open("a")
        if not _ends_a_line(folder / "log.jsonl"):  # the last line of a run that was killed while writing it
            self.file.write("\n")

    def __call__(self, event: Event) -> None:
        self.file.write(json.dumps(event) + "\n")
        self.file.flush()
        if self.writer is not None and event["event"] == "train":
            for key, value in event.items():
                if isinstance(value, float):
                    self.writer.add_scalar(f"train/{key}", value, event["step"])
        self.watch(event)

    def close(self) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()


def read_events(folder: Path) -> list[Event]:
    """The events of a run. A resumed run repeats the steps after its checkpoint; the later word stands. Lines that cannot be
    read are passed over: the log is for people, and nothing is computed from it."""
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


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(size - 1, 0))
        return opened.read() in (b"", b"\n")


def summary_writer() -> Any:
    """TensorBoard's writer class. Raises `BackendError` where the extra is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BackendError(
            f"training.tensorboard needs TensorBoard: {error}", remedy="pip install 'lapflow[tensorboard]', or set it to false"
        ) from None
    return SummaryWriter
