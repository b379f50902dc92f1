"""A file of what was measured of the real images, so that it is measured once: a safetensors file with JSON
in its head.

`SPLIT/mean`, `SPLIT/scatter` (float64, about the mean) and `SPLIT/features` of each split, and in the head
what they were made of: the extractor, its resizing, the data. A file that was made of anything else is
refused, and says what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lapflow.core.dataset import Split
from lapflow.core.errors import DataError
from lapflow.evaluation.frechet import Statistics
from lapflow.evaluation.real import Measured
from lapflow.evaluation.sealed import read_sealed, write_sealed
from lapflow.util.digest import difference

FORMAT = "lapflow-reference-1"


def write_reference(path: Path, settings: Mapping[str, Any], splits: Mapping[Split, Measured]) -> None:
    """Write the file as a whole. `settings` as `read_reference` is asked for. Raises `DataError`."""
    tensors: dict[str, Tensor] = {}
    for name, found in splits.items():
        tensors |= {
            f"{name}/mean": found.statistics.mean,
            f"{name}/scatter": found.statistics.scatter,
            f"{name}/features": found.features,
        }
    counts = {name: found.count for name, found in splits.items()}
    write_sealed(path, tensors, {"format": FORMAT, "settings": settings, "counts": counts})


def read_reference(path: Path, settings: Mapping[str, Any]) -> dict[Split, Measured]:
    """{split: what was measured} for the splits in `settings["data"]`. Raises `DataError` for a file that is
    damaged, something else, or made with other settings; `settings["kept"]` 0 is content with any number of
    features."""
    try:
        head, tensors = read_sealed(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from None
    if head.get("format") != FORMAT:
        raise _unreadable(path, "it does not say what a reference says")
    _require_same(path, head["settings"], settings)
    return {
        name: Measured(
            Statistics(head["counts"][name], tensors[f"{name}/mean"], tensors[f"{name}/scatter"]),
            tensors[f"{name}/features"]
            if settings["kept"]
            else torch.empty(0, len(tensors[f"{name}/mean"]), dtype=torch.float64),
        )
        for name in settings["data"]
    }


def _require_same(path: Path, held: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    data = {name: held["data"][name] for name in settings["data"] if name in held["data"]}
    kept = held["kept"] if settings["kept"] else 0
    if changes := difference({**held, "data": data, "kept": kept}, settings):
        raise DataError(
            "the reference is of something else",
            where=str(path),
            got="; ".join(changes[:4]) + ("; ..." if len(changes) > 4 else ""),
            expected="the same images, extractor and resizing",
            remedy="name another file with evaluation.reference, or remove this one to have it made anew",
        )


def _unreadable(path: Path, cause: str) -> DataError:
    return DataError(
        "the reference cannot be read",
        where=str(path),
        got=cause,
        expected="a file that lapflow evaluate wrote",
        remedy="remove it, to have it made anew, or name another with evaluation.reference",
    )
