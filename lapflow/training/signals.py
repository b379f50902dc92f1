"""Signals that end a run in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lapflow.core.errors import LapflowError

TERMINATED = 143
"""The exit code of a run that was asked to stop and saved: 128 + SIGTERM, which schedulers take for 'ended by
request'."""

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
