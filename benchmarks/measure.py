"""Timing of alternatives side by side, and what a result says of where it was made."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(
    works: Mapping[str, Callable[[], object]],
    repeats: int,
    before: Callable[[], object] = lambda: None,
    device: str = "cpu",
) -> dict[str, float]:
    """Median seconds of each work over `repeats` rounds, after one that is not counted; a round runs all of
    them in turn.

    The machine's mood changes within minutes, so only times of the same rounds are compared. `before` runs,
    untimed, before each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            before()
            _settle(device)
            start = time.perf_counter()
            work()
            _settle(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """What matters of the machine and the software for a time."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    return f"{sum(line.startswith('processor') for line in lines)} x {name}"


def write(name: str, rows: Sequence[Mapping[str, Any]], out: Path | None = None, **more: Any) -> None:
    """Print the rows as a table and keep them as JSON."""
    print(table(rows))
    command = f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip()
    path = out or RESULTS / f"{name}.json"
    path.write_text(
        json.dumps({"command": command, "machine": machine(), **more, "rows": list(rows)}, indent=1) + "\n"
    )
    print(f"\n{path}")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; the columns are those of all rows, in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    digits = f"{value:.3g}"
    return f"{float(digits):,.0f}" if "e+" in digits else digits  # 2,010 and not 2.01e+03
