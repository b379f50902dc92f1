"""One sample, told while it is made, in plain mappings, as the page reads them:

    {event: step, t, scale, picture}      what the finest active scale shows now, as often as the eye needs
    {event: column, index, t, pictures}   a settled column of the strip of scales: {scale: picture}, as
                                          `lapflow sample` draws it in scales.png
    {event: done, picture, ...}           the sample itself

A picture is a PNG as a data URL; a film's plays.
"""

from __future__ import annotations

import base64
import io
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image
from torch import Tensor

from lapflow.core.field import Field
from lapflow.core.solver import Observer
from lapflow.core.state import State
from lapflow.demo.capabilities import Capabilities
from lapflow.demo.draw_request import Drawing
from lapflow.sampling.pictures import encode, tile
from lapflow.sampling.pipeline import Trajectory
from lapflow.sampling.writing import STRIP_TIMES

Event = dict[str, Any]
Tell = Callable[[Event], None]

SECONDS_BETWEEN = 0.08
"""At least, between two pictures of the state: each costs the sampler the time to make it."""
LIVE_SIDE, STRIP_SIDE = 512, 128
"""Larger pictures of the state, and of the strip, are made smaller on the way to the page. The sample itself
never is."""


class NotWantedError(Exception):
    """Nobody waits for the drawing any more."""


def paint(capabilities: Capabilities, drawing: Drawing, tell: Tell, cancelled: Callable[[], bool]) -> None:
    """Draw the sample number 0 of the drawing's seed, which is the one that `lapflow sample --num 1` writes.

    Raises `NotWantedError` before the next evaluation of the network once `cancelled` says so, and what
    sampling raises.
    """
    pipeline, began = capabilities.pipeline, time.perf_counter()
    watching = _Watching(Trajectory(pipeline.flow), tell)

    def look(*_: Any) -> None:
        if cancelled():
            raise NotWantedError

    # Not in the observer: an adaptive solver may evaluate often between two steps.
    hook = pipeline.model.register_forward_pre_hook(look)
    try:
        images, work = pipeline.draw(
            range(1),
            condition=drawing.condition,
            solver=drawing.solver,
            guidance=drawing.guidance,
            seed=drawing.seed,
            observe=watching.observer,
        )
    finally:
        hook.remove()
    watching.finish()
    tell(
        {
            "event": "done",
            "picture": data_url(encode(images[0])),
            "evaluations": work.evaluations,
            "rejected": work.rejected,
            "seconds": round(time.perf_counter() - began, 3),
            "command": drawing.command,
        }
    )


class _Watching:
    """Tells of a trajectory while it grows, and keeps of it only what a column to come may need."""

    def __init__(self, trajectory: Trajectory, tell: Tell) -> None:
        self.trajectory, self.tell = trajectory, tell
        self.columns = deque(enumerate(STRIP_TIMES))
        self.shown = 0.0

    def observer(self, current: Field) -> Observer:
        keep = self.trajectory.observer(current)

        def watch(t: float, state: State) -> None:
            keep(t, state)
            while self.columns and self._settled(self.columns[0][1], t):
                self._column()
            if time.perf_counter() - self.shown >= SECONDS_BETWEEN:
                self._step(t)
                self.shown = time.perf_counter()

        return watch

    def finish(self) -> None:
        """Tell the columns that no further step can settle."""
        while self.columns:
            self._column()

    def _settled(self, column: float, t: float) -> bool:
        """Whether no frame after one at `t` can be nearer to `column`. Of frames at one time the last counts,
        so that time must be over."""
        return any(column <= at < t for at, _, _ in self.trajectory.frames)

    def _column(self) -> None:
        index, wanted = self.columns.popleft()
        [(t, images)] = self.trajectory.images([wanted])
        self.tell({"event": "column", "index": index, "t": t, "pictures": _pictures(images, STRIP_SIDE)})
        if self.columns:  # the next column's nearest frame is the last one before it, or a later one
            before = [i for i, (at, _, _) in enumerate(self.trajectory.frames) if at < self.columns[0][1]]
            del self.trajectory.frames[: before[-1] if before else 0]

    def _step(self, t: float) -> None:
        [(_, images)] = Trajectory(self.trajectory.flow, frames=self.trajectory.frames[-1:]).images([t])
        scale = list(images)[-1]
        shown = _pictures({"picture": images[scale]}, LIVE_SIDE)
        self.tell({"event": "step", "t": t, "scale": scale, **shown})


def _pictures(images: Mapping[str, Tensor], side: int) -> dict[str, str]:
    """Images by name as data URLs, none larger than `side`."""
    made = {}
    for name, image in images.items():
        picture = tile(image, image.shape[0])
        picture.thumbnail((side, side), Image.Resampling.BOX)
        file = io.BytesIO()
        picture.save(file, "png")
        made[name] = data_url(file.getvalue())
    return made


def data_url(png: bytes) -> str:
    """A PNG file that stands in the text itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
