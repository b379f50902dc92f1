"""Progress: bars on a terminal, one JSON line per event otherwise."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lapflow.core.errors import printable

Watch = Callable[[dict[str, Any]], None]


def silence() -> None:
    """Let what is printed from now on go nowhere: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


TROUBLE = {
    "non_finite": "step {step} left out: its loss or gradient is not finite ({skipped} so far; samples in "
    "log.jsonl)",
    "save_failed": "{cause}; trying again in {retry_in:.0f} s",
    "stopped": "{signal}: saved at step {step}",
}
"""What went wrong, in a line."""


def _line(event: dict[str, Any]) -> None:
    try:
        print(json.dumps(event), flush=True)
    except BrokenPipeError:
        silence()
        raise


@contextmanager
def watcher() -> Iterator[Watch]:
    """Gives the function that shows a training run's events."""
    if not sys.stdout.isatty():
        yield _line
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
                bars.console.print(
                    f"{verb}: {event['parameters'] / 1e6:.2f} M parameters, {event['images']} images, {where}"
                )
                for line in event.get("changes", []):
                    bars.console.print(f"changed: {printable(line)}", markup=False, soft_wrap=True)
                bars.update(task, total=event["steps"], completed=event["step"])
            elif kind == "train":
                loss = f"loss {event['loss']:.4f}  " if "loss" in event else ""
                note = f"{loss}{event['images_per_second']:.0f} images/s"
                bars.update(task, completed=event["step"], note=note)
            elif kind in TROUBLE:
                bars.console.print(TROUBLE[kind].format(**event), style="yellow")
            elif kind == "quarantined":
                names = printable(", ".join(event["names"]))
                text = f"{event['total']} images cannot be read and are replaced; new: {names}"
                bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
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
