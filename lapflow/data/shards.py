"""A cache of moments on the disk: what it is made of, its shards, its manifest.

encoding.json              how it is made; written first
train-00000.safetensors    `moments` [n, m, *sizes], `labels` [n]; `flipped`, like `moments`, where asked for
train-00001.safetensors    the next images of the split, in its order
manifest.json              encoding.json with every shard's SHA-256; written last: without it the cache is
                           not whole

Reading takes JSON and safetensors only: nothing in a cache is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from lapflow.core.dataset import Split
from lapflow.core.errors import DataError
from lapflow.util.digest import tensors_sha256
from lapflow.util.files import file_sha256

MANIFEST, SETTINGS = "manifest.json", "encoding.json"
SAID, SAID_ENDS = "annotations", "annotation_ends"
"""The tensors of a shard that hold other annotations than labels, where there are some: JSON objects one
behind the other, as bytes, and where each begins and the last one ends [n + 1]."""
Dtype = Literal["float32", "float16", "bfloat16"]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Sizes = Annotated[tuple[Positive, ...], Field(min_length=2, max_length=4)]
"""(c, *sizes)."""

_ABOUT = {"made_by", "affine"}
"""What is said for people: where the codec was, and its shift and scale, which are not applied."""


@dataclass(frozen=True)
class Shard:
    """`count` images of a split, from number `start` on."""

    name: str
    split: Split
    start: int
    count: int


class Settings(pydantic.BaseModel):
    """How a cache is made. `codec` is the codec's identity; moments are kept as the codec gives them,
    unscaled."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal["lapflow-latents-1"] = "lapflow-latents-1"
    codec: dict[str, Any] = Field(min_length=1)
    made_by: dict[str, Any]
    affine: tuple[float, float]
    images: dict[str, Any]
    shape: Sizes
    grey_levels: Positive
    classes: tuple[str, ...]
    moments: Sizes
    dtype: Dtype
    flip: bool
    shard_size: Positive
    counts: dict[Split, Count]

    def shards(self) -> list[Shard]:
        """All shards, in the order of the images."""
        return [
            Shard(f"{split}-{i:05d}.safetensors", split, start, min(self.shard_size, count - start))
            for split, count in self.counts.items()
            for i, start in enumerate(range(0, count, self.shard_size))
        ]

    def what_matters(self) -> dict[str, Any]:
        """The settings that decide what the shards hold, as JSON values."""
        return self.model_dump(mode="json", include=set(Settings.model_fields) - _ABOUT)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The settings in a file. Raises `DataError` for what is not such a file; `OSError` where there is
        none."""
        data = path.read_bytes()
        try:
            return cls.model_validate_json(data)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            raise DataError(
                f"{path.name} is not that of a cache of latents, or it was altered",
                where=str(path),
                got=f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}",
                remedy="encode into a new folder",
            ) from None


class Manifest(Settings):
    """The settings of a whole cache, and the SHA-256 of each shard's file by its name."""

    sha256: dict[str, str]

    @pydantic.model_validator(mode="after")
    def _names_every_shard(self) -> Self:
        if set(self.sha256) != {shard.name for shard in self.shards()}:
            raise ValueError("it does not name each shard once")
        return self


def pack(settings: Settings, shard: Shard, tensors: Mapping[str, Tensor]) -> bytes:
    """A shard's file."""
    return save_tensors(dict(tensors), metadata={"lapflow": _mark(settings, shard, tensors)})


def verified(path: Path, settings: Settings, shard: Shard) -> str | None:
    """The SHA-256 of the file `path` if it holds this shard of a cache of these settings, undamaged;
    otherwise None."""
    try:
        with safe_open(path, "pt") as file:
            mark = (file.metadata() or {}).get("lapflow")
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    except (FileNotFoundError, SafetensorError):
        return None
    return file_sha256(path) if mark == _mark(settings, shard, tensors) else None


def batches(shard: Shard, batch_size: int) -> Iterator[range]:
    """The images of a shard in batches, by their numbers in the split."""
    stop = shard.start + shard.count
    for start in range(shard.start, stop, batch_size):
        yield range(start, min(start + batch_size, stop))


def _mark(settings: Settings, shard: Shard, tensors: Mapping[str, Tensor]) -> str:
    """What a shard says of itself, so that it is known before there is a manifest. One string: the order of
    several in a safetensors file is not fixed."""
    made = hashlib.sha256(json.dumps(settings.what_matters(), sort_keys=True).encode()).hexdigest()
    return json.dumps({"settings": made, "shard": shard.name, "tensors": tensors_sha256(tensors)})
