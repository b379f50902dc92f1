"""A long run of tiny steps, with checkpoints and samples in the same process: memory, open files and threads
must stay as they are.

    python -m tests.stress.soak [--steps N] [--every N] [--workers N] [--max-growth MB] [--leak]

Measured at every checkpoint, after a few images were drawn from it. The first third is warm-up (images are
kept once decoded, the allocator finds its size). Exit code 1 where memory goes on growing, or files or
threads do not stay the same.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lapflow.config.loading import load_config
from lapflow.sampling.pipeline import Pipeline
from lapflow.training.loop import train

TINY = [
    "model.width=16",
    "model.heads=1",
    "model.depth=1",
    "training.batch_size=16",
    "training.log_every=10",
    "training.flip=true",
]
MB = 2**20


@dataclass(frozen=True)
class Reading:
    step: int
    memory: float
    """Resident set in MB."""
    files: int
    threads: int


def reading(step: int) -> Reading:
    """Of this process, from /proc (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Reading(
        step,
        pages * os.sysconf("SC_PAGE_SIZE") / MB,
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
    )


def soak(folder: Path, steps: int, every: int, workers: int, leak: bool) -> list[Reading]:
    """Train, sample and save for `steps`; a reading at each checkpoint."""
    readings, kept = [], []

    def watch(event: dict) -> None:
        if event["event"] == "checkpoint":
            Pipeline.load(folder).sample(4)
            if leak:
                kept.append((os.urandom(MB), os.open(os.devnull, os.O_RDONLY)))
            readings.append(reading(event["step"]))

    overrides = [
        *TINY,
        f"training.steps={steps}",
        f"training.checkpoint_every={every}",
        f"training.workers={workers}",
    ]
    train(
        load_config("lapflow-digits", [*overrides, "sampling.solver={name: euler, steps: 2}"]), folder, watch
    )
    return readings


def growth(readings: list[Reading]) -> float:
    """The slope of memory, MB per 1,000 steps."""
    return 1000 * float(np.polyfit([r.step for r in readings], [r.memory for r in readings], 1)[0])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument(
        "--every", type=int, default=50, help="steps between checkpoints, samples and readings"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that read images")
    parser.add_argument("--max-growth", type=float, default=1.0, help="MB per 1,000 steps that pass for none")
    parser.add_argument(
        "--leak", action="store_true", help="leak memory and files on purpose, which must be found out"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        readings = soak(Path(work) / "run", options.steps, options.every, options.workers, options.leak)
    warm = readings[len(readings) // 3 :]
    print(f"{'step':>8}{'memory/MB':>12}{'files':>8}{'threads':>9}")
    for r in (*readings[:3], *warm[:: max(1, len(warm) // 8)], readings[-1]):
        print(f"{r.step:>8}{r.memory:>12.1f}{r.files:>8}{r.threads:>9}")
    files, threads = ({getattr(r, name) for r in warm} for name in ("files", "threads"))
    slope, span = growth(warm), max(r.memory for r in warm) - min(r.memory for r in warm)
    print(
        f"from step {warm[0].step}: {slope:+.3f} MB per 1,000 steps, within {span:.1f} MB; files {files}, "
        f"threads {threads}"
    )
    return int(slope > options.max_growth or len(files) > 1 or len(threads) > 1)


if __name__ == "__main__":
    sys.exit(main())
