"""The training loop around forward, backward and optimizer, with EMA, clipping and logging on: S/2, 32x32x4
data held in memory.

    python -m benchmarks.training [--batch 16] [--steps 8] [--levels 2]

A whole `lapflow.train` of two runs' difference would be noise; so the parts are timed inside one run: what
the network's call, the backward pass and the optimizer's own step take, and what is left of the time between
two log lines.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import lapflow
from benchmarks.measure import write
from lapflow.backends.engines.torch import TorchEngine
from lapflow.config.loading import load_config
from lapflow.core.dataset import Dataset, Sample, Split
from lapflow.training.step import EMA

STARTS = {1: [0.0], 2: [0.0, 0.5], 3: [0.0, 0.33, 0.67]}
PARTS = ("network", "backward", "optimizer")
WARM = 2
"""Steps that are not counted."""


class Noise(Dataset):
    """Images of noise that cost nothing to read."""

    shape = (4, 32, 32)
    class_names = tuple("0123456789")

    def __init__(self) -> None:
        self.images = torch.randn(256, *self.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)

    def size(self, split: Split) -> int:
        return len(self.images)

    def read(self, split: Split, index: int) -> Sample:
        return Sample(self.images[index], {"label": index % len(self.class_names)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    write(
        "training",
        [measure(levels, batch, options.steps) for levels in options.levels for batch in options.batch],
    )


def measure(levels: int, batch: int, steps: int) -> dict[str, object]:
    """The parts of the mean step of a run of `WARM` + `steps` steps."""
    spent: dict[str, float] = defaultdict(float)
    marks: list[tuple[float, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder, _Timed(spent):
        lapflow.train(
            config(levels, batch, WARM + steps),
            Path(folder) / "run",
            lambda event: marks.append((time.perf_counter(), dict(spent))),
        )
    (began, before), (ended, after) = marks[WARM], marks[WARM + steps]
    total = (ended - began) / steps
    parts = {
        name: (after[name] - before[name]) / steps / total for name in (*PARTS, "average", "clip and clear")
    }
    ema_and_clip = {name: parts.pop(name) for name in ("average", "clip and clear")}
    return {
        "K": levels,
        "batch": batch,
        "step s": total,
        **parts,
        "loop": 1 - sum(parts.values()),
        **{f"of it {n}": s for n, s in ema_and_clip.items()},
    }


def config(levels: int, batch: int, steps: int) -> Any:
    flow = {
        "decomposition": {"name": "laplacian", "levels": levels},
        "intervals": {"name": "cumulative", "starts": STARTS[levels]},
    }
    return load_config(
        {
            "flow": flow,
            "model": {"name": "mot-dit", "size": "S/2"},
            "data": {"name": "noise"},
            "training": {
                "steps": steps,
                "batch_size": batch,
                "log_every": 1,
                "grad_clip_norm": 1.0,
                "ema_decay": 0.9999,
                "checkpoint_every": 10**6,
            },
        }
    )


class _Timed:
    """Within it, calls of the parts add their seconds to `spent`."""

    def __init__(self, spent: dict[str, float]) -> None:
        self.spent = spent
        self.kept: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> None:
        spent = self.spent
        prepare = TorchEngine.prepare

        def prepared(engine: TorchEngine, *arguments: Any, **options: Any) -> Any:
            called = prepare(engine, *arguments, **options)
            engine.optimizer.step = self.timed("optimizer", engine.optimizer.step)  # type: ignore[method-assign]
            return self.timed("network", called)

        self.replace(TorchEngine, "prepare", prepared)
        self.replace(TorchEngine, "backward", self.timed("backward", TorchEngine.backward))
        self.replace(EMA, "update", self.timed("average", EMA.update))
        step = TorchEngine.step

        def around(engine: TorchEngine, rate: float) -> float:
            inner, start = spent["optimizer"], time.perf_counter()
            norm = step(engine, rate)
            spent["clip and clear"] += time.perf_counter() - start - (spent["optimizer"] - inner)
            return norm

        self.replace(TorchEngine, "step", around)

    def __exit__(self, *_: object) -> None:
        for owner, name, value in self.kept:
            setattr(owner, name, value)

    def replace(self, owner: Any, name: str, value: Any) -> None:
        self.kept.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.spent[part] += time.perf_counter() - start

        return call


lapflow.register(Noise, name="noise")

if __name__ == "__main__":
    main()
