"""Saving a run: gathered from all processes, written by the first, and tried again while the disk refuses."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lapflow.config.building import Composition
from lapflow.config.loading import resolved
from lapflow.core.errors import CheckpointError
from lapflow.training.checkpoint import Checkpoint, save_checkpoint
from lapflow.training.ema import EMA
from lapflow.training.events import Log
from lapflow.training.run_folder import RunFolder, environment
from lapflow.training.signals import Signals
from lapflow.training.step import MODEL, TrainingStep

PAUSE = 5.0
"""Seconds between tries."""


def save(
    parts: Composition,
    step: TrainingStep,
    run: RunFolder | None,
    counts: dict[str, int],
    ema: EMA | None,
    log: Log,
    signals: Signals,
) -> Path | None:
    """A checkpoint of all that resuming and sampling need; its path, on rank 0. Collective.

    What is saved is gathered once. Should the disk refuse it, writing is tried again for
    `training.save_patience` seconds, unless a signal asks the run to stop; then `CheckpointError` is raised
    on every process.
    """
    engine = parts.engine
    tensors = {**step.groups(engine.gather(engine.shards())), "optimizer": engine.state()}
    if ema is not None:
        tensors["ema"] = step.groups(engine.gather(ema.shadow))[MODEL]

    def write() -> Path:
        assert run is not None, "rank 0 holds the run's folder"
        documents = {
            "state": counts,
            "config": resolved(parts.config),
            "environment": environment(parts.config),
            "classes": list(parts.dataset.class_names),
            "shape": list(parts.dataset.shape),
            **({"frozen": parts.frozen} if parts.frozen else {}),
        }
        checkpoint = Checkpoint(tensors, documents)
        return _patiently(
            lambda: save_checkpoint(
                run.checkpoints, counts["step"], checkpoint, parts.config.training.keep_checkpoints
            ),
            parts.config.training.save_patience,
            lambda error: log(
                {"event": "save_failed", "step": counts["step"], "cause": error.what, "retry_in": PAUSE}
            ),
            signals,
        )

    return engine.first(write)


def _patiently(
    write: Callable[[], Path], patience: float, failed: Callable[[CheckpointError], None], signals: Signals
) -> Path:
    deadline = time.monotonic() + patience
    while True:
        try:
            return write()
        except CheckpointError as error:
            if time.monotonic() + PAUSE > deadline or signals.received:
                raise
            failed(error)
            wait = time.monotonic() + PAUSE
            while time.monotonic() < wait and not signals.received:
                time.sleep(0.1)
