"""Two real training steps, and what the second one took. Nothing is written."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lapflow.config.schema import Config
from lapflow.core.state import batch_size
from lapflow.flows.flow import TrainingPoint
from lapflow.training.events import EventLog, Signals
from lapflow.training.loop import TrainingLoop, composed, joined
from lapflow.training.step import take_step

STEPS = 2


@dataclass(frozen=True)
class DryRun:
    """The second step, over all `processes`; its `memory` (bytes) is the peak of the process that needed
    most.

    `multiply_adds` is three times what the network states for one evaluation of each sample (forward, and
    backward as twice as much), with the scales that the step drew.
    """

    device: str
    processes: int
    seconds: float
    memory: int
    parameters: int
    multiply_adds: int
    images: int
    loss: float


def dry_run(config: Config) -> DryRun | None:
    """Take two training steps of `config`, from its first weights, and measure the second. Every process of
    the engine calls this; all but the first get None. Raises what `train` raises."""
    parts, module = composed(config)
    engine, settings, count = parts.engine, config.training, 0

    def counted(points: Sequence[TrainingPoint]) -> Any:
        nonlocal count
        for point in points:
            each = parts.model.multiply_adds(tuple(point.state))
            count += batch_size(point.state) * sum(each.values())
        return loop.model(points)

    with joined(engine):
        loop = TrainingLoop(parts, module, None, EventLog(None), Signals())
        for number in range(STEPS):
            count, since = 0, time.perf_counter()
            _, taken = take_step(parts, counted, loop.read(), number)
            loop.average()
            loss = sum(float(loss) for loss, _ in taken) / len(taken)  # waits for the device
            if engine.device.type == "cuda":
                torch.cuda.synchronize(engine.device)
            seconds = time.perf_counter() - since
        rows = engine.exchange((seconds, _peak_memory(engine.device), count, loss))
    all_seconds, all_peaks, all_counts, all_losses = zip(*rows)
    found = DryRun(
        str(engine.device),
        engine.world_size,
        max(all_seconds),
        max(all_peaks),
        loop.about["parameters"],
        3 * sum(all_counts),
        settings.batch_size * settings.accumulation,
        sum(all_losses) / len(all_losses),
    )
    return None if engine.rank else found


def _peak_memory(device: torch.device) -> int:
    """In bytes: of a GPU what torch has allocated, of a CPU the resident memory of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")  # Linux: there `getrusage` may give the parent process's
    found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.M) if status.exists() else None
    return 1024 * int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
