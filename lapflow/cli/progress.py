"""Progress: bars on a terminal, one JSON line per event otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lapflow.core.errors import printable

Watch = Callable[[dict[str, Any]], None]


@contextmanager
def watcher() -> Iterator[Watch]:
    """Gives the function that shows a training run's events."""
    if not sys.stdout.isatty():
        yield lambda event: print(json.dumps(event), flush=True)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as bars:
        task = bars.add_task("training", total=None, note="")

        def show(event: dict[str, Any]) -> None:
            kind = event["event"]
            if kind in ("start", "resume"):
                verb = "continuing at step " + str(event["step"]) if kind == "resume" else "training"
                where = f"{event['device']}, attention {event['attention']}"
                bars.console.print(f"{verb}: {event['parameters'] / 1e6:.2f} M parameters, {event['images']} images, {where}")
                bars.update(task, total=event["steps"], completed=event["step"])
            elif kind == "train":
                bars.update(task, completed=event["step"], note=f"loss {event['loss']:.4f}  {event['images_per_second']:.0f} images/s")
            elif kind == "quarantined":
                names = printable(", ".join(event["names"]))
                bars.console.print(
                    f"{event['total']} images cannot be read and are replaced; new: {names}", markup=False, highlight=False, soft_wrap=True
                )
            elif kind == "note":
                bars.console.print(event["text"])
            elif kind in ("checkpoint", "picture"):
                bars.console.print(f"{kind} {event['path']}")

        yield show


@contextmanager
def counter(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives the function that counts `total` items; on a pipe it says so at the end of each batch."""
    if not sys.stdout.isatty():
        done = 0

        def count(items: int) -> None:
            nonlocal done
            done += items
            print(json.dumps({"event": description, "done": done, "total": total}), flush=True)

        yield count
        return
    from rich.progress import Progress

    with Progress() as bars:
        task = bars.add_task(description, total=total)
        yield lambda items: bars.advance(task, items)
