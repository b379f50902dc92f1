"""Samples as one .npz in ADM's layout: `arr_0` uint8 [n, h, w, c], `arr_1` the labels [n].

Any number of processes put their samples in their place in a file of bare pixels; when all are there the
first one packs it. No more than a block of samples is in memory. The disk holds the pixels twice at the end.
"""

from __future__ import annotations

import math
import os
import shutil
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from lapflow.core.files import remove_leftovers, replacing
from lapflow.evaluation.walk import writing

PIXELS = "pixels.raw"
_PIECE = 2**22


class Archive:
    """Collects `num` images of `shape` (h, w, c) in `folder`, for the file `path`. Raises `DataError` where
    the disk refuses."""

    def __init__(self, path: Path, folder: Path, num: int, shape: tuple[int, ...]) -> None:
        self.path, self.pixels, self.num, self.shape = path, folder / PIXELS, num, shape
        self.bytes = math.prod(shape)
        self._file: IO[bytes] | None = None

    def prepare(self) -> bool:
        """Make room for all pixels; whether there was room already, of an earlier attempt. By one process,
        before any `put`."""
        with writing(self.path):
            remove_leftovers(self.path)
            if self.pixels.is_file() and self.pixels.stat().st_size == self.num * self.bytes:
                return True
            self.pixels.parent.mkdir(parents=True, exist_ok=True)
            with self.pixels.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.num * self.bytes)
        return False

    def put(self, start: int, pixels: np.ndarray) -> None:
        """The pixels uint8 [b, h, w, c] of the samples from number `start` on."""
        assert pixels.dtype == np.uint8, pixels.dtype
        assert pixels.shape[1:] == self.shape, pixels.shape
        with writing(self.pixels):
            if self._file is None:
                self._file = self.pixels.open("r+b")
            self._file.seek(start * self.bytes)
            self._file.write(pixels.tobytes())

    def flush(self) -> None:
        """Bring what was put to the disk."""
        if self._file is not None:
            with writing(self.pixels):
                self._file.flush()
                os.fsync(self._file.fileno())

    def pack(self, labels: np.ndarray) -> None:
        """Write `path`, whole or not at all. By one process, when all samples are in their place and
        flushed."""
        with (
            writing(self.path),
            replacing(self.path) as out,
            zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive,
        ):
            with archive.open("arr_0.npy", "w", force_zip64=True) as entry, self.pixels.open("rb") as pixels:
                head = {"descr": "|u1", "fortran_order": False, "shape": (self.num, *self.shape)}
                np.lib.format.write_array_header_1_0(entry, head)
                shutil.copyfileobj(pixels, entry, _PIECE)
            with archive.open("arr_1.npy", "w") as entry:
                np.lib.format.write_array(entry, labels)
