"""Every recipe of the digits trained whole, by its own command, and evaluated; one after another, nothing beside.

    python -m benchmarks.digits [--only NAME ...]

"training s" is the whole of `lapflow train NAME`: starting, data, steps, checkpoints. The evaluation is `lapflow evaluate`'s, with the
recipe's own solver. The result is written after each recipe.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, write
from lapflow.config.layers import recipes
from lapflow.config.loading import load_config


def main() -> None:
    names = [name for name in recipes() if name.endswith("-digits")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as runs:
        for name in options.only:
            rows.append(trained(name, Path(runs) / name))
            write("digits", rows)


def trained(name: str, run: Path) -> dict[str, Any]:
    """A row: how long the recipe trains, and how good what it makes is."""
    began = time.perf_counter()
    command("train", name, "--out", str(run))
    seconds = time.perf_counter() - began
    command("evaluate", str(run))
    found = json.loads((run / "metrics.json").read_bytes())
    made = found["made_with"]
    return {
        "recipe": name,
        "steps": load_config(name).training.steps,
        "training s": seconds,
        "solver": made["solver"],
        "evaluations": made["evaluations"],
        "Frechet ratio": found["frechet_ratio"],
        "agreement": found.get("agreement"),
    }


def command(*arguments: str) -> None:
    """`lapflow ARGUMENTS`, in a process of its own that uses as many threads as `machine` says."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(machine()["threads"])}
    subprocess.run([sys.executable, "-m", "lapflow.cli", *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
