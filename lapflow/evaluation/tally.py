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


@dataclass
class Tally:
    """`statistics` of the features of the `blocks` done (None: no image yet), and what each block gave: {name: {block: rows}}."""

    statistics: Statistics | None = None
    blocks: set[int] = field(default_factory=set)
    rows: dict[str, dict[int, Tensor]] = field(default_factory=dict)

    def add(self, block: int, features: Tensor | None, rows: Mapping[str, Tensor]) -> None:
        """Add a block: its `features` [n, f] (None or none: no statistics) and named rows, at most one per image or so."""
        assert block not in self.blocks, f"block {block} twice"
        if features is not None and len(features):
            self.statistics = Statistics.of(features) if self.statistics is None else self.statistics.update(features)
        self.blocks.add(block)
        for name, value in rows.items():
            self.rows.setdefault(name, {})[block] = value.detach().cpu().contiguous().clone()

    def merge(self, other: Tally) -> None:
        """Add what another walk over other blocks found."""
        assert not self.blocks & other.blocks, "blocks counted twice"
        if self.statistics is None:
            self.statistics = other.statistics
        elif other.statistics is not None:
            self.statistics = self.statistics.merge(other.statistics)
        self.blocks |= other.blocks
        for name, found in other.rows.items():
            self.rows.setdefault(name, {}).update(found)

    def column(self, name: str) -> Tensor:
        """The rows called `name` of all blocks, in the order of the blocks."""
        found = self.rows.get(name, {})
        return torch.cat([found[block] for block in sorted(found)]) if found else torch.empty(0)

    def write(self, path: Path, key: str) -> None:
        """Write whole; `key` says of what walk. Raises `OSError`."""
        tensors = {f"rows/{name}/{block}": rows for name, found in self.rows.items() for block, rows in found.items()}
        count = 0
        if self.statistics is not None:
            count, tensors = self.statistics.count, {**tensors, "mean": self.statistics.mean, "scatter": self.statistics.scatter}
        mark = {"key": key, "count": count, "blocks": sorted(self.blocks), "tensors": tensors_sha256(tensors)}
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
        if not isinstance(mark, dict) or mark.get("key") != key or mark.get("tensors") != tensors_sha256(tensors):
            return None
        found = cls(blocks=set(mark["blocks"]))
        if "mean" in tensors:
            found.statistics = Statistics(mark["count"], tensors.pop("mean"), tensors.pop("scatter"))
        for name, rows in tensors.items():
            _, column, block = name.split("/")
            found.rows.setdefault(column, {})[int(block)] = rows
        return found
