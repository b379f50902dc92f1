"""What a walk over images has found so far, in a form that merges and can be put on the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from lapflow.core.digest import tensors_sha256
from lapflow.core.files import replace_file
from lapflow.evaluation.frechet import Statistics

_LOOSE = 64
"""Tensors of a column before they become one."""

_COLUMN = "column/"


@dataclass
class Column:
    """Rows that some blocks gave, in few tensors however many the blocks are: `counts[i]` rows of block
    `blocks[i]`."""

    blocks: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)

    def add(self, blocks: list[int], counts: list[int], rows: Tensor) -> None:
        self.blocks += blocks
        self.counts += counts
        self.parts.append(rows.detach().cpu())
        if len(self.parts) > _LOOSE:
            self.rows()

    def rows(self) -> Tensor:
        """All rows, in the order in which they came."""
        self.parts = [torch.cat(self.parts)]
        return self.parts[0]

    def in_order(self) -> Tensor:
        """All rows, in the order of the blocks."""
        pieces = self.rows().split(self.counts)
        return torch.cat([pieces[i] for i in sorted(range(len(pieces)), key=self.blocks.__getitem__)])


@dataclass
class Tally:
    """`statistics` of the features of the `blocks` done (None: no image yet), and named columns of what the
    blocks gave."""

    statistics: Statistics | None = None
    blocks: set[int] = field(default_factory=set)
    columns: dict[str, Column] = field(default_factory=dict)

    def add(self, block: int, features: Tensor | None, rows: Mapping[str, Tensor]) -> None:
        """Add a block: its `features` [n, f] (None or none: no statistics) and named rows, at most one per
        image or so."""
        assert block not in self.blocks, f"block {block} twice"
        if features is not None and len(features):
            self.statistics = (
                Statistics.of(features) if self.statistics is None else self.statistics.update(features)
            )
        self.blocks.add(block)
        for name, value in rows.items():
            self.columns.setdefault(name, Column()).add([block], [len(value)], value)

    def merge(self, other: Tally) -> None:
        """Add what another walk over other blocks found."""
        assert not self.blocks & other.blocks, "blocks counted twice"
        if self.statistics is None:
            self.statistics = other.statistics
        elif other.statistics is not None:
            self.statistics = self.statistics.merge(other.statistics)
        self.blocks |= other.blocks
        for name, column in other.columns.items():
            self.columns.setdefault(name, Column()).add(column.blocks, column.counts, column.rows())

    def column(self, name: str) -> Tensor:
        """The rows called `name` of all blocks, in the order of the blocks; none if no block gave any."""
        return self.columns[name].in_order() if name in self.columns else torch.empty(0)

    def write(self, path: Path, key: str) -> None:
        """Write whole; `key` says of what walk. Raises `OSError`."""
        tensors = {_COLUMN + name: column.rows().contiguous() for name, column in self.columns.items()}
        count = 0
        if self.statistics is not None:
            count, tensors = (
                self.statistics.count,
                {**tensors, "mean": self.statistics.mean, "scatter": self.statistics.scatter},
            )
        mark = {
            "key": key,
            "count": count,
            "blocks": sorted(self.blocks),
            "columns": {name: [column.blocks, column.counts] for name, column in self.columns.items()},
            "tensors": tensors_sha256(tensors),
        }
        replace_file(path, save_tensors(tensors, metadata={"lapflow": json.dumps(mark)}))

    @classmethod
    def read(cls, path: Path, key: str) -> Tally | None:
        """What `write` left; None for a file that is damaged, or of another walk."""
        try:
            with safe_open(path, "pt") as file:
                mark = json.loads((file.metadata() or {}).get("lapflow", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (OSError, SafetensorError, ValueError):
            return None
        if (
            not isinstance(mark, dict)
            or mark.get("key") != key
            or mark.get("tensors") != tensors_sha256(tensors)
        ):
            return None
        columns = {
            name: Column(blocks, counts, [tensors[_COLUMN + name]])
            for name, (blocks, counts) in mark["columns"].items()
        }
        statistics = (
            Statistics(mark["count"], tensors["mean"], tensors["scatter"]) if "mean" in tensors else None
        )
        return cls(statistics, set(mark["blocks"]), columns)
