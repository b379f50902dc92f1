"""What a run says while it goes on: events, kept as JSON lines and passed on to whoever watches."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    """The events of a run. A resumed run repeats the steps after its checkpoint; the later word stands."""
    file = folder / "log.jsonl"
    if not file.is_file():
        return []
    events: list[Event] = []
    for line in file.read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # the last line of a run that was killed while writing it
            continue
        if event.get("event") == "start":  # a run that was killed before its first checkpoint began anew
            events = []
        if event.get("event") == "resume":
            events = [e for e in events if e["event"] != "train" or e["step"] <= event["step"]]
        events.append(event)
    return events


def summary_writer() -> Any:
    """TensorBoard's writer class. Raises `BackendError` where the extra is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BackendError(
            f"training.tensorboard needs TensorBoard: {error}", remedy="pip install 'lapflow[tensorboard]', or set it to false"
        ) from None
    return SummaryWriter
