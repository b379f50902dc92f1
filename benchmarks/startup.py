"""What importing lapflow adds to importing torch, and how long `lapflow --help` takes; each in a process of
its own.

python -m benchmarks.startup [--repeats N]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.measure import interleaved, write

PROGRAMS = {
    "import torch": ["-c", "import torch"],
    "import torch, lapflow": ["-c", "import torch, lapflow"],
    "import lapflow": ["-c", "import lapflow"],
    "lapflow.Flow, .sample, .load": ["-c", "import lapflow; lapflow.Flow, lapflow.sample, lapflow.load"],
    "lapflow --help": ["-m", "lapflow.cli", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    seconds = interleaved(
        {name: _program(arguments) for name, arguments in PROGRAMS.items()}, options.repeats
    )
    alone = seconds["import torch"]
    write("startup", [{"work": name, "s": s, "of import torch": s / alone} for name, s in seconds.items()])


def _program(arguments: list[str]) -> object:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
