"""The result of an evaluation as files: `metrics.json` for programs, `report.md` with its pictures for
people."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lapflow.config.loading import write_yaml
from lapflow.evaluation.evaluate import MEANINGS
from lapflow.util.files import replace_file


def write_report(
    folder: str | Path,
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    pictures: Mapping[str, str | Path] | None = None,
    title: str = "Evaluation",
) -> Path:
    """Write `metrics.json` and `report.md` into `folder`, made if need be; returns the path of the report.

    `pictures` maps captions to picture files, which are linked relative to `folder`. `metrics` may nest;
    numbers that are not finite become null. Each file is written aside and renamed, so a reader never sees
    half of one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = _plain(metrics)
    replace_file(folder / "metrics.json", (json.dumps(plain, indent=2, allow_nan=False) + "\n").encode())
    parts = [
        f"# {title}",
        metrics_table(plain),
        *_links(folder, pictures or {}),
        "## Config",
        fenced_yaml(config),
    ]
    report = folder / "report.md"
    replace_file(report, ("\n\n".join(parts) + "\n").encode())
    return report


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """The figures of an evaluation as a Markdown table, one row each."""
    rows = ["| measure | value | meaning |", "|---|---:|---|"]
    rows += [
        f"| {name.replace('_', ' ').replace('.', ': ')} | {_number(value)} | {MEANINGS.get(name, '')} |"
        for name, value in _flat(metrics)
    ]
    return "\n".join(rows)


def _links(folder: Path, pictures: Mapping[str, str | Path]) -> Iterator[str]:
    for caption, path in pictures.items():
        yield f"## {caption}"
        yield f"![{caption}]({quote(Path(os.path.relpath(path, folder)).as_posix())})"


def fenced_yaml(config: Mapping[str, Any]) -> str:
    """A config as a block of YAML in Markdown."""
    return f"```yaml\n{write_yaml(_plain(config)).rstrip()}\n```"


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def _plain(value: Any) -> Any:
    """Mappings, sequences and numbers (of numpy and torch too) as JSON knows them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) or value is None else str(value)
