"""The second built-in data set: letters and digits rendered from real typefaces, at any size.

62 classes (0-9, A-Z, a-z), one grey channel. Image `index` of a split is a pure function of (seed, split,
index): class index mod 62, a typeface, and a random scale, slant, rotation and shift, stated below. The
held-out images are other draws of the same typefaces, or of typefaces that training never shows.
"""

from __future__ import annotations

import functools
import math
import string
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from lapflow.core.dataset import Dataset, Sample, Split
from lapflow.core.errors import BackendError, DataError
from lapflow.util.random import keyed_generator

CLASSES = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
SYMBOLS = {"cmex10", "cmsy10"}
"""matplotlib's TeX typefaces that hold symbols in the places of letters."""

OVERSAMPLE = 4
BODY = 0.62
"""Font size over the side of the image, before the random scale."""
SCALE, SLANT, ROTATION, SHIFT = 0.15, 0.2, 8.0, 0.06
"""Largest deviations, all uniform: of the scale from 1, of the shear from 0, degrees, shares of the side."""


class Glyphs(Dataset):
    """Letters and digits in the typefaces that matplotlib brings (or a folder's), 62 classes, white on black.

    Raises `BackendError` without matplotlib where no folder is given, `DataError` without a usable typeface.
    """

    def __init__(
        self,
        *,
        size: Annotated[int, Field(ge=16, le=256, description="side of the images in pixels")] = 32,
        train: Annotated[int, Field(ge=1, description="number of training images")] = 50_000,
        test: Annotated[int, Field(ge=0, description="number of held-out images")] = 5_000,
        fonts: Annotated[
            str | None, Field(description="a folder of .ttf or .otf files; null: matplotlib's")
        ] = None,
        held_out: Annotated[
            Literal["draws", "typefaces"],
            Field(description="test images are other draws, or every fifth typeface, kept out of training"),
        ] = "draws",
        seed: Annotated[
            int, Field(ge=0, description="every image is a function of this, its split and its index")
        ] = 0,
    ) -> None:
        self.side, self.counts, self.fonts = size, {"train": train, "test": test}, fonts
        self.held_out, self.seed = held_out, seed

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, self.side, self.side

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASSES

    def size(self, split: Split) -> int:
        self._typefaces(split)
        return self.counts[split]

    def read(self, split: Split, index: int) -> Sample:
        if not 0 <= index < self.counts[split]:
            raise DataError(
                f"the glyphs' {split} split has no image {index}",
                expected=f"0 <= index < {self.counts[split]}",
            )
        typefaces = self._typefaces(split)
        generator = keyed_generator("glyphs", self.seed, split, index)
        draws = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
        label = index % len(CLASSES)
        path = typefaces[int(draws[0] * len(typefaces))]
        pixels = _render(CLASSES[label], path, self.side, [2 * u - 1 for u in draws[1:]])
        return Sample(torch.from_numpy(pixels)[None] / 127.5 - 1, {"label": label})

    def _typefaces(self, split: Split) -> list[str]:
        found = usable_typefaces(self.fonts)
        if self.held_out == "draws":
            return found
        if len(found) < 5:
            raise DataError(
                "too few typefaces to hold some out",
                got=len(found),
                expected="at least 5",
                remedy="set data.held_out=draws",
            )
        return [path for i, path in enumerate(found) if (i % 5 == 4) == (split == "test")]


def _render(character: str, path: str, side: int, draws: list[float]) -> np.ndarray:
    """The character scaled, sheared, rotated and shifted by `draws` in [-1, 1]: grey levels [side, side]."""
    scale, slant, rotation, right, down = draws
    canvas = side * OVERSAMPLE
    font = _font(path, round(canvas * BODY * (1 + SCALE * scale)))
    left, top, stop, bottom = font.getbbox(character)
    image = Image.new("L", (canvas, canvas), 0)
    corner = (canvas - left - stop) / 2, (canvas - top - bottom) / 2
    ImageDraw.Draw(image).text(corner, character, font=font, fill=255)
    # The affine map from output to input pixels about the centre: inverse rotation, inverse shear, shift.
    angle, c = math.radians(ROTATION * rotation), canvas / 2
    cos, sin, shear = math.cos(angle), math.sin(angle), SLANT * slant
    a, b, d, e = cos + shear * sin, -sin + shear * cos, sin, cos
    x, y = c + SHIFT * right * canvas, c + SHIFT * down * canvas
    matrix = a, b, c - a * x - b * y, d, e, c - d * x - e * y
    turned = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(turned.resize((side, side), Image.Resampling.BOX), dtype=np.float32).copy()


@functools.lru_cache(maxsize=512)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@functools.cache
def usable_typefaces(folder: str | None) -> list[str]:
    """The typefaces that draw all 62 characters, in the order of their file names."""
    files = _files(folder)
    found = [str(path) for path in files if path.stem not in SYMBOLS and _draws_all(path)]
    if not found:
        where = f"the folder {folder}" if folder else "matplotlib's folder of fonts"
        raise DataError(
            f"there is no usable typeface in {where}",
            got=f"{len(files)} .ttf or .otf files",
            expected="at least one with the characters 0-9, A-Z, a-z",
            remedy="set data.fonts to a folder of typefaces",
        )
    return found


def _files(folder: str | None) -> list[Path]:
    if folder is None:
        try:
            import matplotlib
        except ImportError as error:
            raise BackendError(
                "the glyphs use matplotlib's typefaces, which cannot be imported",
                got=str(error),
                remedy="pip install 'lapflow[demo]', or set data.fonts to a folder of typefaces",
            ) from error
        root = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    else:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise DataError(
                "the folder of typefaces does not exist",
                got=str(root),
                expected="a folder of .ttf or .otf files",
            )
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))


def _draws_all(path: Path) -> bool:
    """Whether characters have pictures of their own: not empty, not that of a missing one, not all one."""
    try:
        font = ImageFont.truetype(str(path), 32)
    except OSError:
        return False
    missing = bytes(font.getmask("\ufffe"))  # no character
    pictures = [bytes(font.getmask(character)) for character in CLASSES]
    return all(pictures) and missing not in pictures and len(set(pictures)) > len(CLASSES) / 2
