"""What `lapflow sample` leaves behind: pictures for people, an .npz for programs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from lapflow.core.errors import CheckpointError
from lapflow.sampling.pictures import animated_grid, encode, image_grid, scale_strip, to_uint8
from lapflow.sampling.pipeline import Pipeline, Samples

STRIP_TIMES = tuple(i / 8 for i in range(9))
"""The times of the columns of `scales.png`."""
MAX_GRID = 400
MARK = ".lapflow-samples"
"""The file that says that the images beside it are ours to replace: it is there before the first one."""


def write_samples(folder: Path, samples: Samples, pipeline: Pipeline) -> None:
    """Write `grid.png` (a column per class where there are few classes), `scales.png`,
    `images/NNNNN-CLASS.png` and `samples.npz` (`arr_0` uint8 [n, *sizes, c], `arr_1` labels; ADM's layout).
    Of films, `grid.png` shows the frames side by side, and the pictures in `images` and `playing.png` play.
    The images of an earlier call are replaced."""
    prepare_folder(folder)
    for old in (folder / "images").glob("*.png"):
        old.unlink()
    pixels = to_uint8(samples.images)
    names = pipeline.class_names
    for i, image in enumerate(samples.images):
        label = "" if samples.labels is None else f"-{_plain(names, int(samples.labels[i]))}"
        (folder / "images" / f"{i:05d}{label}.png").write_bytes(encode(image))
    labels = np.zeros(len(pixels), dtype=np.int64) if samples.labels is None else samples.labels.numpy()
    np.savez(folder / "samples.npz", arr_0=pixels, arr_1=labels)
    columns, films = _columns(samples.labels, len(pixels)), samples.images.ndim == 5
    image_grid(samples.images[:MAX_GRID], columns=1 if films else columns).save(folder / "grid.png")
    if films:
        (folder / "playing.png").write_bytes(animated_grid(samples.images[:MAX_GRID], columns))
    if samples.trajectory is not None:
        scale_strip(samples.trajectory.images(STRIP_TIMES)).save(folder / "scales.png")


def prepare_folder(folder: Path) -> None:
    """Make `folder`, before any work is done for it. Raises `CheckpointError` if it cannot be written, or if
    its `images` are not those of an earlier call: nothing of anybody else's is ever replaced."""
    images = folder / "images"
    try:
        images.mkdir(parents=True, exist_ok=True)
        if any(images.iterdir()) and not (folder / MARK).is_file():
            raise CheckpointError(
                "the output folder is in use",
                got=f"{images} holds files that are not an earlier call's samples",
                expected="a new folder, or one of earlier samples",
                remedy="choose another --out",
            )
        (folder / MARK).touch()
    except OSError as error:
        raise CheckpointError(
            f"samples cannot be written there: {error.strerror}",
            got=str(folder),
            expected="a folder that can be written",
        ) from None


def _columns(labels: Tensor | None, num: int) -> int:
    """As many columns as classes in turn, where that makes a sensible grid; else a square."""
    classes = 0 if labels is None else len(labels.unique())
    return classes if 2 <= classes <= min(20, num) else max(1, math.ceil(math.sqrt(min(num, MAX_GRID))))


def _plain(names: tuple[str, ...], label: int) -> str:
    """A class's name as a part of a file name."""
    name = names[label] if label < len(names) else "none"
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:40]
