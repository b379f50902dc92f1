"""Samples as one .npz in ADM's layout: `arr_0` uint8 [n, h, w, c], `arr_1` the labels [n]."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lapflow.evaluation.sealed import writing
from lapflow.util.files import remove_leftovers, replacing


def write_archive(
    path: Path, shape: tuple[int, ...], blocks: Iterable[np.ndarray], labels: np.ndarray
) -> None:
    """Write `path`, whole or not at all: `blocks` are the pixels uint8 [b, *shape] of `len(labels)` images in
    their order, of which one is in memory at a time. Raises `DataError` where the disk refuses."""
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
