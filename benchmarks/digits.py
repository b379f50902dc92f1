"""Every recipe of the digits trained whole, by its own command; one after another, nothing beside.

    python -m benchmarks.digits [--only NAME ...]

The time is that of `lapflow train NAME`: starting, data, steps, checkpoints. The result is written after each
recipe.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, write
from lapflow.config.loading import load_config, recipes


def main() -> None:
    names = [name for name in recipes() if name.endswith("-digits")]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as runs:
        for name in options.only:
            rows.append(trained(name, Path(runs) / name))
            write("digits", rows)


def trained(name: str, run: Path) -> dict[str, Any]:
    """A row: how long the recipe trains."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(machine()["threads"])}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "lapflow.cli", "train", name, "--out", str(run)],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - began
    settings = load_config(name).training
    return {"recipe": name, "steps": settings.steps, "batch": settings.batch_size, "s": seconds}


if __name__ == "__main__":
    main()
