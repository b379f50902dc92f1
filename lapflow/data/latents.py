"""Cached latents, the moments that `lapflow encode` made of another set's images: their files, and the data
set that reads them.

encoding.json              how it is made; written first
train-00000.safetensors    `moments` [n, m, *sizes], `labels` [n]; `flipped`, like `moments`, where asked for
train-00001.safetensors    the next images of the split, in its order
manifest.json              encoding.json with every shard's SHA-256; written last: without it the cache is
                           not whole

Reading takes JSON and safetensors only: nothing in a cache is ever executed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import torch
from pydantic import BeforeValidator, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from lapflow.core.dataset import Dataset, Encoding, Sample, Split, absolute_path
from lapflow.core.errors import DataError
from lapflow.core.state import Shape
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
    """How a cache is made. `codec` is the codec's identity; moments are kept unscaled, as it gives them."""

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
        """The settings in a file. Raises `DataError` for what is not such a file, `OSError` for no file."""
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
    """The SHA-256 of the file `path` if it holds this shard of these settings, undamaged; otherwise None."""
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


_REMEDY = "remove it and repeat the `lapflow encode` that made the folder: it is made anew"


class Latents(Dataset):
    """The moments that `lapflow encode --out PATH` left in a folder, mapped into memory, as float32.

    Shape, classes and splits stand in the manifest, so a model can be built without opening a shard. A
    shard's SHA-256 is checked when it is first opened, once for all processes that read ahead. Mirrored
    variants are those that were encoded. Raises `DataError` for a cache that is not whole, and by name for a
    shard that is missing or not what was saved.
    """

    def __init__(
        self,
        *,
        path: Annotated[
            str,
            BeforeValidator(absolute_path),
            Field(min_length=1, description="the folder that `lapflow encode` wrote"),
        ],
    ) -> None:
        self.path = Path(path)

    @functools.cached_property
    def manifest(self) -> Manifest:
        """What the cache says of itself, read at the first call."""
        try:
            return Manifest.read(self.path / MANIFEST)
        except OSError as error:
            begun = (self.path / SETTINGS).exists()
            raise DataError(
                f"the latents in {self.path} are not whole" if begun else f"{self.path} holds no latents",
                got=f"{MANIFEST}: {error.strerror}",
                expected="a folder that `lapflow encode` has finished",
                remedy="repeat the command that began it: whole shards are taken as they are"
                if begun
                else "check data.path",
            ) from None

    @property
    def shape(self) -> Shape:
        return self.manifest.shape

    @property
    def grey_levels(self) -> int:  # type: ignore[override]
        return self.manifest.grey_levels

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.manifest.classes

    @property
    def encoding(self) -> Encoding:
        made = self.manifest
        return Encoding(made.codec, made.made_by, made.images, made.moments)

    def size(self, split: Split) -> int:
        return self._shards.manifest.counts.get(split, 0)

    def contents(self, split: Split) -> dict[str, int | str]:
        """The SHA-256 of the shards."""
        made = self.manifest
        return {shard.name: made.sha256[shard.name] for shard in made.shards() if shard.split == split}

    def read(self, split: Split, index: int) -> Sample:
        return self._shards.sample("moments", split, index)

    def read_mirrored(self, split: Split, index: int) -> Sample:
        self.require_mirrored()
        return self._shards.sample("flipped", split, index)

    def require_mirrored(self) -> None:
        if not self.manifest.flip:
            raise DataError(
                f"the latents in {self.path} were made without mirrored variants",
                got="training.flip: true",
                expected="training.flip: false",
                remedy="set training.flip=false, or encode with --flip into another folder",
            )

    @functools.cached_property
    def _shards(self) -> _Shards:
        return _Shards(self.path, self.manifest)


class _Shards:
    """The shards of a cache, each opened and verified when first needed."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.shards = {split: [s for s in manifest.shards() if s.split == split] for split in manifest.counts}
        self.opened: dict[str, Any] = {}
        if missing := [name for name in manifest.sha256 if not (folder / name).is_file()]:
            raise DataError(
                f"{missing[0]} is missing from the latents in {folder}",
                got=f"{len(missing)} missing shards",
                remedy=_REMEDY,
            )
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is started anew: files and flags are its own. A forked one shares the flags."""
        return {**self.__dict__, "opened": {}, "known": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._share()

    def _share(self) -> None:
        """One byte for each shard, 1 once it is verified, in memory that forked processes share."""
        self.known = mmap.mmap(-1, max(1, len(self.manifest.sha256)))

    def sample(self, name: str, split: Split, index: int) -> Sample:
        """Row `index` of the split's tensor `name` as float32, a copy, and what is said of it."""
        count = self.manifest.counts.get(split, 0)
        if not 0 <= index < count:
            raise DataError(
                f"the {split} split has no image {index}",
                where=str(self.folder),
                expected=f"0 <= index < {count}",
            )
        place, row = divmod(index, self.manifest.shard_size)
        shard = self.shards[split][place]
        try:
            file = self._open(shard.name)
            moments = file.get_slice(name)[row].to(torch.float32, copy=True)
            said: dict[str, Any] = {}
            if self.manifest.classes:
                said["label"] = int(file.get_slice("labels")[row : row + 1].item())
            if SAID in file.offset_keys():
                start, stop = file.get_slice(SAID_ENDS)[row : row + 2].tolist()
                said |= json.loads(bytes(file.get_slice(SAID)[start:stop].tolist()))
            return Sample(moments, said)
        except (OSError, SafetensorError, IndexError) as error:
            raise DataError(
                f"{shard.name} cannot be read: {error}", where=str(self.folder / shard.name), remedy=_REMEDY
            ) from None

    def _open(self, name: str) -> Any:
        if name not in self.opened:
            place, saved = list(self.manifest.sha256).index(name), self.manifest.sha256[name]
            if not self.known[place] and (digest := file_sha256(self.folder / name)) != saved:
                raise DataError(
                    f"{name} in the latents in {self.folder} is not what was saved",
                    got=f"SHA-256 {digest}",
                    expected=saved,
                    remedy=_REMEDY,
                )
            self.known[place] = 1
            self.opened[name] = safe_open(self.folder / name, "pt")
        return self.opened[name]
