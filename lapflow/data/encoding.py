"""Encoding: a data set's images through a codec into a cache of moments, once and for all.

The work is cut into shards. A shard is whole or it is not there, so a repeated command goes on where the last
one was stopped, and any number of processes may work in one folder: each makes its own shards, and whoever
finds all of them in place writes the manifest. No process waits for another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lapflow.core.codec import Codec
from lapflow.core.dataset import SPLITS, Dataset
from lapflow.core.errors import DataError
from lapflow.data.latents import (
    MANIFEST,
    SAID,
    SAID_ENDS,
    SETTINGS,
    Dtype,
    Manifest,
    Settings,
    Shard,
    batches,
    pack,
    verified,
)
from lapflow.data.loader import Content, read_batches
from lapflow.data.quarantine import QUARANTINE, Quarantine
from lapflow.util.digest import difference
from lapflow.util.files import ASIDE, remove_leftovers, replace_file


class Encoder:
    """Makes the cache of `settings` in the folder `out`, as process `rank` of `world_size`.

    `workers` read the images; `progress` is called with the number of images done. Up to the share
    `bad_images` of them may be unreadable: as in training each is replaced by another, and listed in the
    cache's `quarantine.jsonl`. Raises `DataError` for a folder that holds something else (saying what
    differs), too many unreadable images, moments that are not finite, and a disk that refuses; what is whole
    by then stays and is taken up by the next call.
    """

    def __init__(
        self,
        dataset: Dataset,
        codec: Codec,
        settings: Settings,
        out: Path,
        *,
        device: torch.device,
        batch_size: int = 32,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[int], Any] = lambda count: None,
        bad_images: float = 0.0,
    ) -> None:
        assert 0 <= rank < world_size, f"rank {rank} of {world_size} processes"
        self.dataset, self.codec, self.settings, self.out = dataset, codec, settings, out
        self.device, self.batch_size, self.workers, self.progress = device, batch_size, workers, progress
        self.shards = settings.shards()
        self.own = self.shards[rank::world_size]
        self.hashes: dict[str, str] = {}
        self.bad_images = bad_images

    def run(self) -> list[str]:
        """Make this process's shards, and the manifest if all others are there; the names of missing ones."""
        with self._writing(SETTINGS):
            self._claim()
        quarantine = Quarantine(self.out / QUARANTINE, sum(self.settings.counts.values()), self.bad_images)
        for shard in self.own:
            with self._writing(shard.name):
                remove_leftovers(self.out / shard.name)
            if digest := verified(self.out / shard.name, self.settings, shard):
                self.hashes[shard.name] = digest
                self.progress(shard.count)
        for split in SPLITS:
            todo = [shard for shard in self.own if shard.split == split and shard.name not in self.hashes]
            keys = [[(i, False) for i in rows] for shard in todo for rows in batches(shard, self.batch_size)]
            samples = read_batches(self.dataset, split, keys, self.workers)
            for shard in todo:
                data = pack(self.settings, shard, self._encoded(shard, samples, quarantine))
                with self._writing(shard.name):
                    self.hashes[shard.name] = replace_file(self.out / shard.name, data)
        missing = [shard.name for shard in self.shards if not (self.out / shard.name).exists()]
        if not missing:
            self._finish()
        return missing

    def _claim(self) -> None:
        """Write the settings, or compare them with those that are there."""
        path = self.out / SETTINGS
        self.out.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            held = sorted(p.name for p in self.out.iterdir() if not p.name.startswith(ASIDE))
            if held and not path.exists():  # now it may: of another process
                raise DataError(
                    "the output folder is in use",
                    got=f"{self.out} holds {', '.join(held[:3])}{', ...' if len(held) > 3 else ''}",
                    expected="a new or empty folder, or that of an interrupted encoding",
                    remedy="choose another --out",
                )
            replace_file(path, self.settings.model_dump_json(indent=2).encode())
        if changes := difference(Settings.read(path).what_matters(), self.settings.what_matters()):
            raise DataError(
                f"the latents in {self.out} are made with other settings",
                got="; ".join(changes),
                expected="the same settings, to go on",
                remedy="choose another --out, or repeat the command that began them",
            )

    def _encoded(self, shard: Shard, samples: Iterator[Content], quarantine: Quarantine) -> dict[str, Tensor]:
        """The tensors of a shard, from the stream of the samples that it begins."""
        dtype = getattr(torch, self.settings.dtype)
        found: dict[str, list[Tensor]] = {
            "moments": [],
            "labels": [],
            **({"flipped": []} if self.settings.flip else {}),
        }
        others: list[bytes] = []
        for rows, (images, said, unreadable) in zip(batches(shard, self.batch_size), samples, strict=False):
            quarantine.add(unreadable)
            images = images.to(self.device)
            found["labels"].append(torch.tensor(said.pop("label", [0] * len(images)), dtype=torch.int64))
            rest = [dict(zip(said, values)) for values in zip(*said.values())]
            others += [json.dumps(one, sort_keys=True).encode() for one in rest]
            for name, variant in (("moments", images), ("flipped", images.flip(-1))):
                if name in found:
                    with torch.inference_mode():
                        moments = self.codec.posterior(variant).to(dtype).cpu()
                    _require_finite(moments, shard, rows, self.settings.dtype)
                    found[name].append(moments)
            self.progress(len(rows))
        tensors = {name: torch.cat(parts) for name, parts in found.items()}
        if others:
            tensors[SAID] = torch.tensor(list(b"".join(others)), dtype=torch.uint8)
            tensors[SAID_ENDS] = torch.tensor([0, *map(len, others)]).cumsum(0)
        return tensors

    def _finish(self) -> None:
        """Write the manifest; the shards of other processes are verified first."""
        for shard in self.shards:
            digest = self.hashes.get(shard.name) or verified(self.out / shard.name, self.settings, shard)
            if digest is None:
                raise DataError(
                    f"{shard.name} is not a whole shard of these latents",
                    where=str(self.out / shard.name),
                    remedy="repeat the command: it is made anew",
                )
            self.hashes[shard.name] = digest
        manifest = Manifest(
            **dict(self.settings), sha256={shard.name: self.hashes[shard.name] for shard in self.shards}
        )
        with self._writing(MANIFEST):
            replace_file(self.out / MANIFEST, manifest.model_dump_json(indent=2).encode())

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Gives what the disk refuses its name and its remedy."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{name} could not be written: {error.strerror or error}",
                got=str(self.out),
                remedy="free some space or fix the folder, and repeat the command: whole shards are taken "
                "as they are",
            ) from error


def plan(
    dataset: Dataset,
    codec: Codec,
    *,
    images: Mapping[str, Any],
    made_by: Mapping[str, Any],
    device: torch.device,
    dtype: Dtype = "float32",
    flip: bool = True,
    shard_size: int = 1024,
) -> Settings:
    """The settings of `codec`'s cache of `dataset`; `made_by` and `images`: the two as a config names them.

    Loads the codec and encodes one blank image. Raises `DataError` for a set that holds moments already or no
    image, and what codec and data set raise.
    """
    if dataset.encoding is not None:
        raise DataError("the data are latents already", got=dict(images), expected="a data set of images")
    codec.latent_shape(dataset.shape)
    if flip:
        dataset.require_mirrored()
    counts = {split: dataset.size(split) for split in SPLITS}
    if not any(counts.values()):
        raise DataError("there is no image to encode", got=dict(images), expected="at least one image")
    with torch.inference_mode():
        moments = codec.posterior(torch.zeros(1, *dataset.shape, device=device))
    return Settings(
        codec=codec.identity(),
        made_by=dict(made_by),
        affine=codec.affine,
        images=dict(images),
        shape=dataset.shape,
        grey_levels=dataset.grey_levels,
        classes=dataset.class_names,
        moments=tuple(moments.shape[1:]),
        dtype=dtype,
        flip=flip,
        shard_size=shard_size,
        counts=counts,
    )


def _require_finite(moments: Tensor, shard: Shard, rows: range, dtype: Dtype) -> None:
    finite = torch.isfinite(moments).flatten(1).all(1)
    if not bool(finite.all()):
        raise DataError(
            f"the moments of image {rows[int(finite.int().argmin())]} of the {shard.split} split are not "
            f"finite in {dtype}",
            expected="finite numbers",
            remedy="encode with --dtype float32, or look at the image"
            if dtype != "float32"
            else "look at the image and the codec",
        )
