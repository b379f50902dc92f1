"""A data set of cached latents: the moments that `lapflow encode` made of another set's images."""

from __future__ import annotations

import functools
import json
import mmap
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field
from safetensors import SafetensorError, safe_open

from lapflow.core.dataset import Dataset, Encoding, Sample, Split
from lapflow.core.errors import DataError
from lapflow.core.state import Shape
from lapflow.data.folder import text_path
from lapflow.data.shards import MANIFEST, SAID, SAID_ENDS, SETTINGS, Manifest
from lapflow.util.files import file_sha256

_REMEDY = "remove it and repeat the `lapflow encode` that made the folder: it is made anew"


class Latents(Dataset):
    """The moments that `lapflow encode --out PATH` left in a folder, mapped into memory and widened to
    float32.

    Shape, classes and splits stand in the manifest, so a model can be built without opening a shard. A
    shard's SHA-256 is checked when it is first opened, once for all processes that read ahead. Mirrored
    variants are those that were encoded.
    Raises `DataError` for a cache that is not whole, and by name for a shard that is missing or not what was
    saved.
    """

    def __init__(
        self,
        *,
        path: Annotated[
            str,
            BeforeValidator(text_path),
            Field(min_length=1, description="the folder that `lapflow encode` wrote"),
        ],
    ) -> None:
        self.path = Path(path).expanduser()

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
            said = (
                {"label": int(file.get_slice("labels")[row : row + 1].item())}
                if self.manifest.classes
                else {}
            )
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
            place = list(self.manifest.sha256).index(name)
            if not self.known[place]:
                self._verify(name)
                self.known[place] = 1
            self.opened[name] = safe_open(self.folder / name, "pt")
        return self.opened[name]

    def _verify(self, name: str) -> None:
        digest = file_sha256(self.folder / name)
        if digest != self.manifest.sha256[name]:
            raise DataError(
                f"{name} in the latents in {self.folder} is not what was saved",
                got=f"SHA-256 {digest}",
                expected=self.manifest.sha256[name],
                remedy=_REMEDY,
            )
