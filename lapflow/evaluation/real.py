"""The real images that samples are compared with: read block by block, what is measured of them, what they
are known by, and the reference file that keeps it, so that it is measured once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lapflow.core.dataset import Dataset, Split
from lapflow.core.errors import DataError, ImageError
from lapflow.core.features import FeatureExtractor, extract
from lapflow.data.loader import load_images, spaced
from lapflow.evaluation.distances import Statistics
from lapflow.evaluation.resumable import ResumableLoop, Workspace, read_sealed, write_sealed
from lapflow.util.digest import difference, tensors_sha256

BLOCK = 256
"""Real images read at once."""

PROBES = 256
"""Images of a split whose pixels are looked at to know it again."""

FEATURES, ROWS = "features", "rows"
"""In a block of a loop: the features [n, f] of the images that could be read, and the numbers [n] of these
images."""

FORMAT = "lapflow-reference-1"


@dataclass(frozen=True)
class Measured:
    """What is known of a set of images: the `statistics` of all their features, and the `features` [k, f] of
    some of them (k = 0: none were kept), by which kernel distance, precision and recall go."""

    statistics: Statistics
    features: Tensor

    @property
    def count(self) -> int:
        return self.statistics.count

    @classmethod
    def of(cls, images: Tensor, features: FeatureExtractor) -> Measured:
        """Of images [n, c, h, w] in memory, n >= 1; no features are kept."""
        return measured({FEATURES: extract(features, part)} for part in images.split(BLOCK))


def measured(blocks: Iterable[Mapping[str, Tensor]], chosen: Sequence[int] = ()) -> Measured:
    """The blocks together (one without `FEATURES` has no image), and the features of the images numbered
    `chosen`, by `ROWS`. Raises `DataError` where there is no image."""
    statistics: Statistics | None = None
    kept, numbers = [], torch.tensor(chosen, dtype=torch.int64)
    for block in blocks:
        if (features := block.get(FEATURES)) is None:
            continue
        statistics = Statistics.of(features) if statistics is None else statistics.update(features)
        if chosen:
            kept.append(features[torch.isin(block[ROWS], numbers)])
    if statistics is None:
        raise DataError("there is no image to measure", expected="at least one that can be read")
    return Measured(statistics, torch.cat(kept) if kept else _no_features(statistics))


def _no_features(statistics: Statistics) -> Tensor:
    return statistics.mean.new_empty(0, len(statistics.mean))


class RealImages:
    """At most `max_images` images of a split, evenly spaced. What `keep` makes of them stays in memory once
    they are read."""

    def __init__(
        self, dataset: Dataset, split: Split, max_images: int, keep: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.dataset, self.split, self.keep = dataset, split, keep
        self.indices = spaced(dataset.size(split), max_images)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._cause: ImageError | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def block(self, rows: range) -> tuple[Tensor, list[int]]:
        """Those of the images numbered `rows` that can be read, [n, c, h, w], and their numbers."""
        images, labels, refused = load_images(self.dataset, self.split, self.indices[rows.start : rows.stop])
        if refused:
            self._cause = refused[-1][1]
        if self.keep is not None:
            self._kept[rows.start] = (self.keep(images), labels)
        bad = {index for index, _ in refused}
        return images, [row for row in rows if self.indices[row] not in bad]

    def everything(self) -> tuple[Tensor, Tensor]:
        """What `keep` makes of all that can be read, and their labels. Raises `ImageError` when none can be
        read."""
        assert self.keep is not None, "nothing is kept of these images"
        for start in range(0, max(len(self), 1), BLOCK):  # no images are an empty block
            if start not in self._kept:
                self.block(range(start, min(start + BLOCK, len(self))))
        images, labels = zip(*(self._kept[start] for start in sorted(self._kept)))
        if not sum(map(len, images)) and self._cause is not None:
            raise self._cause
        return torch.cat(images), torch.cat(labels)

    def measure(
        self, workspace: Workspace, settings: Mapping[str, Any], features: FeatureExtractor, kept: int
    ) -> Measured | None:
        """Walk over them: statistics of all, features of `kept` of them, evenly spaced. `settings` are all
        that the features depend on. None on all processes but the first. Collective. Raises `ImageError` when
        none can be read."""

        def make(rows: range) -> dict[str, Tensor]:
            images, numbers = self.block(rows)
            found = {ROWS: torch.tensor(numbers, dtype=torch.int64)}
            return {**found, FEATURES: extract(features, images)} if numbers else found

        name, what = f"real-{self.split}", f"real images ({self.split})"
        loop = workspace.loop(name, what, settings, len(self), BLOCK, make)
        return workspace.engine.first(lambda: self._measured(loop, kept))

    def _measured(self, loop: ResumableLoop, kept: int) -> Measured:
        if self._cause is not None and not any(loop.each(FEATURES)):
            raise self._cause
        return measured(loop.each(FEATURES, ROWS), spaced(len(self), kept))

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What the split is known by, as JSON values, wherever it lies: its size, how many images of it are
        used, the SHA-256 of all names, and of the pixels of `PROBES` images, evenly spaced. A change of other
        pixels under the same name is not seen."""
        size = self.dataset.size(self.split)
        names = hashlib.sha256()
        for index in range(size):
            names.update(f"{self.dataset.name(self.split, index)}\n".encode())
        pixels = hashlib.sha256()
        for index in spaced(size, PROBES):
            images, labels, refused = load_images(self.dataset, self.split, [index])
            found = "unreadable" if refused else tensors_sha256({"image": images, "label": labels})
            pixels.update(found.encode())
        return {
            "shape": list(self.dataset.shape),
            "size": size,
            "used": len(self),
            "names": names.hexdigest(),
            "pixels": pixels.hexdigest(),
        }


def write_reference(path: Path, settings: Mapping[str, Any], splits: Mapping[Split, Measured]) -> None:
    """Write what was measured of the real images: a safetensors file of `SPLIT/mean`, `SPLIT/scatter`
    (float64, about the mean) and `SPLIT/features` of each split. In its head stands what they were made of
    (`settings`): the extractor, its resizing, the data. Raises `DataError`."""
    tensors: dict[str, Tensor] = {}
    for name, found in splits.items():
        statistics = found.statistics
        parts = {"mean": statistics.mean, "scatter": statistics.scatter, "features": found.features}
        tensors |= {f"{name}/{part}": value for part, value in parts.items()}
    counts = {name: found.count for name, found in splits.items()}
    write_sealed(path, tensors, {"format": FORMAT, "settings": settings, "counts": counts})


def read_reference(path: Path, settings: Mapping[str, Any]) -> dict[Split, Measured]:
    """{split: what was measured} for the splits in `settings["data"]`. Raises `DataError` for a file that is
    damaged, something else, or made with other settings, and says what differs; `settings["kept"]` 0 is
    content with any number of features."""
    try:
        head, tensors = read_sealed(path)
        if head.get("format") != FORMAT:
            raise ValueError("it does not say what a reference says")
    except (OSError, ValueError) as error:
        raise DataError(
            "the reference cannot be read",
            where=str(path),
            got=getattr(error, "strerror", None) or str(error),
            expected="a file that lapflow evaluate wrote",
            remedy="remove it, to have it made anew, or name another with evaluation.reference",
        ) from None
    held, wanted, kept = head["settings"], settings["data"], settings["kept"]
    data = {name: held["data"][name] for name in wanted if name in held["data"]}
    if changes := difference({**held, "data": data, "kept": held["kept"] if kept else 0}, settings):
        raise DataError(
            "the reference is of something else",
            where=str(path),
            got="; ".join(changes[:4]) + ("; ..." if len(changes) > 4 else ""),
            expected="the same images, extractor and resizing",
            remedy="name another file with evaluation.reference, or remove this one to have it made anew",
        )
    found: dict[Split, Measured] = {}
    for name in wanted:
        mean, scatter, features = (tensors[f"{name}/{part}"] for part in ("mean", "scatter", "features"))
        statistics = Statistics(head["counts"][name], mean, scatter)
        found[name] = Measured(statistics, features if kept else _no_features(statistics))
    return found
