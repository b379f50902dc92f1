"""The result of an evaluation as files: `metrics.json` for programs, `report.md` for people, samples as one
.npz; and the words in which metrics state how they came about."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lapflow.config.loading import write_yaml
from lapflow.evaluation.evaluate import MEANINGS
from lapflow.evaluation.resumable import writing
from lapflow.plugins.registry import create
from lapflow.sampling.pipeline import Pipeline
from lapflow.util.files import remove_leftovers, replace_file, replacing


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
    parts = [f"# {title}", metrics_table(plain)]
    for caption, path in (pictures or {}).items():
        target = quote(Path(os.path.relpath(path, folder)).as_posix())
        parts += [f"## {caption}", f"![{caption}]({target})"]
    parts += ["## Config", fenced_yaml(config)]
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


def fenced_yaml(config: Mapping[str, Any]) -> str:
    """A config as a block of YAML in Markdown."""
    return f"```yaml\n{write_yaml(_plain(config)).rstrip()}\n```"


def write_archive(
    path: Path, shape: tuple[int, ...], blocks: Iterable[np.ndarray], labels: np.ndarray
) -> None:
    """Write samples as one .npz in ADM's layout, whole or not at all: `arr_0` uint8 [n, h, w, c], `arr_1` the
    labels [n]. `blocks` are the pixels uint8 [b, *shape] of `len(labels)` images in their order, of which one
    is in memory at a time. Raises `DataError` where the disk refuses."""
    with writing(path):
        remove_leftovers(path)
        with replacing(path) as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as entry:
                head = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *shape)}
                np.lib.format.write_array_header_1_0(entry, head)
                for pixels in blocks:
                    assert pixels.dtype == np.uint8, pixels.dtype
                    assert pixels.shape[1:] == shape, pixels.shape
                    entry.write(pixels.tobytes())
            with archive.open("arr_1.npy", "w") as entry:
                np.lib.format.write_array(entry, labels)


def made_with(
    pipeline: Pipeline,
    evaluations: int,
    solver: Mapping[str, Any] | None = None,
    guidance: float | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """How samples were made; None: the config's. Figures are compared by it, and can be made again."""
    sampling = pipeline.config.sampling
    solver = solver or sampling.solver
    defaulted = create("solver", solver).config
    tolerances = [f"{name}={defaulted[name]:g}" for name in ("rtol", "atol") if name in defaulted]
    return {
        "solver": words(solver),
        "evaluations": evaluations,
        "tolerance": " ".join(tolerances) or None,
        "guidance": words(sampling.guidance) if guidance is None else f"cfg scale={guidance}",
        "batch_size": batch_size or sampling.batch_size,
        "weights": pipeline.weights,
        "ema_decay": pipeline.config.training.ema_decay if pipeline.weights == "ema" else None,
        "step": pipeline.step,
        "seed": seed,
    }


def words(spec: Mapping[str, Any]) -> str:
    """A component's spec in one line: name, then what is set."""
    return " ".join(
        str(value) if key == "name" else f"{key}={value}" for key, value in spec.items() if value is not None
    )


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
