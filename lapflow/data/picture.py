"""One picture file -> one tensor: decoding, colours, cropping and resizing, with Pillow.

A file is read right or it is refused with the cause: what the bytes are decides, not what the name says, and
nothing that a file holds can hang the reader, fill the memory or start another program.
"""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from lapflow.core.errors import ImageError, printable

Channels = Literal[1, 3]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What a file may hold, whatever its suffix. Pillow knows more: for EPS it starts Ghostscript."""

MAX_PIXELS = 89_478_485
"""The largest picture that is decoded: Pillow's own warning level, a quarter of a gigabyte in colour."""

LONGEST = 16
"""Of a picture more than this many times as long as the crop needs, only the middle is scaled."""

_SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_ON_THE_WAY = {"La": "LA", "LAB": "RGB"}  # where Pillow has no direct conversion
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored picture upright."""


class _RefusedError(Exception):
    """What we refuse ourselves; its text is the cause."""


def read_picture(path: Path, size: tuple[int, int], channels: Channels) -> Tensor:
    """The picture in `path` as float32 [channels, h, w] in [-1, 1], cropped and resized to `size` = (h, w).

    Of an animation or a file of several pages the first. Raises `ImageError`, naming the file and the cause,
    when it is no regular file, missing, empty, truncated, damaged, larger than `MAX_PIXELS` or not a
    picture. What the process itself is short of (memory, open files) is no fault of the picture's and raised
    as it comes.
    """
    try:
        with _open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow would warn once for each picture of a million
            picture = crop_resize(plain(_decoded(file), channels), size)
    except Exception as error:  # on bytes from anywhere a decoder may raise anything
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _SHORT_OF:
            raise
        raise ImageError(
            "an image cannot be read",
            where=printable(str(path)),
            got=_cause(error),
            expected="a whole PNG, JPEG or WebP file",
            remedy="replace or remove this file",
        ) from error
    pixels = np.array(picture, dtype=np.float32).reshape(*size, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous() / 127.5 - 1


def plain(picture: Image.Image, channels: Channels) -> Image.Image:
    """Any mode -> "L" or "RGB", 8 bits, upright.

    The EXIF orientation is applied; a damaged EXIF block has none. Transparency (alpha channel, transparent
    palette entry or colour) is composited on white. 16-bit grey is divided by 257, so that white stays white.
    Colour becomes grey by the luma of ITU-R 601; colour profiles are not applied. Refuses what has no known
    white: floating point, and 32-bit values beyond 16 bits.
    """
    picture = _upright(picture)
    if picture.mode == "F":
        raise _RefusedError("floating-point samples, whose white is not known")
    if picture.mode.startswith("I"):  # 16-bit grey; older Pillow reports the 32-bit mode "I"
        picture = _eight_bits(picture)
    if picture.mode in _ON_THE_WAY:
        picture = picture.convert(_ON_THE_WAY[picture.mode])
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("L" if channels == 1 else "RGB")


def crop_resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale to cover `size` = (h, w) and keep the centre, as ADM does (Dhariwal & Nichol 2021,
    `center_crop_arr`).

    Halve with a box filter while both sides stay at least twice the target, then one antialiased bicubic
    step. We crop to any aspect, ADM to squares; for those the result is ADM's. A sliver is cut to its middle
    first (`LONGEST`): scaled whole, 30000x1 pixels would need gigabytes.
    """
    height, width = size
    widest = -(-LONGEST * picture.height * width // height)
    highest = -(-LONGEST * picture.width * height // width)
    picture = _centre(picture, min(picture.width, widest), min(picture.height, highest))
    while picture.width >= 2 * width and picture.height >= 2 * height:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = max(width / picture.width, height / picture.height)
    covering = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    if covering != picture.size:
        picture = picture.resize(covering, Image.Resampling.BICUBIC)
    return _centre(picture, width, height)


def _open(path: Path) -> IO[bytes]:
    """The regular file at `path`. A pipe or a device is refused unopened: reading one may wait for ever."""
    if not path.is_file():
        os.stat(path)  # says what is missing
        raise _RefusedError("a folder" if path.is_dir() else "not a regular file (a pipe, socket or device)")
    file = path.open("rb")
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise _RefusedError("an empty file")
    return file


def _decoded(file: IO[bytes]) -> Image.Image:
    """The first picture in `file`, its pixels loaded. Sizes are checked before any pixel is decoded."""
    picture = Image.open(file, formats=FORMATS)
    if picture.width * picture.height > MAX_PIXELS:
        raise _RefusedError(f"{picture.width} x {picture.height} pixels, more than {MAX_PIXELS:,}")
    if picture.format == "PNG":  # Pillow decodes image data without looking at their checksums
        if not picture.tile:
            raise _RefusedError("no image data")
        picture.verify()
        file.seek(0)
        picture = Image.open(file, formats=FORMATS)
        _scale_key(picture)
    picture.load()
    if picture.mode == "P" and not picture.getpalette():
        raise _RefusedError("palette indices without a palette")
    return picture


def _scale_key(picture: ImageFile.ImageFile) -> None:
    """A PNG's transparent colour in 8 bits, as its pixels; Pillow leaves it in the file's own depth."""
    key, depth = picture.info.get("transparency"), str(picture.tile[0][3])
    if isinstance(key, int) and depth == "L;2" and key < 4:
        picture.info["transparency"] = key * 85
    elif isinstance(key, int) and depth == "L;4" and key < 16:
        picture.info["transparency"] = key * 17
    elif isinstance(key, tuple) and depth == "RGB;16B":  # the pixels keep their high bytes only
        picture.info["transparency"] = tuple(value >> 8 for value in key)


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says. Pillow's `exif_transpose` fails where the block is damaged."""
    try:
        orientation: Any = picture.getexif().get(0x0112)
    except Exception:  # as with pixels: a parser on bytes from anywhere
        return picture
    known = isinstance(orientation, int) and orientation in _UPRIGHT
    return picture.transpose(_UPRIGHT[orientation]) if known else picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey -> "L", or "LA" where one level stands for transparent."""
    levels = np.asarray(picture).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise _RefusedError(f"32-bit grey from {levels.min()} to {levels.max()}, whose white is not known")
    grey = np.rint(levels / 257).astype(np.uint8)
    key = picture.info.get("transparency")
    if key is None:
        return Image.fromarray(grey)
    return Image.fromarray(np.stack([grey, np.where(levels == key, 0, 255).astype(np.uint8)], -1))


def _centre(picture: Image.Image, width: int, height: int) -> Image.Image:
    if (width, height) == picture.size:
        return picture
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _cause(error: Exception) -> str:
    """Why a file was refused, in one line that is the same wherever the file lies."""
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "no PNG, JPEG, WebP, GIF, BMP or TIFF data, or a damaged head"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    worded = isinstance(error, OSError | SyntaxError | ValueError)  # what Pillow raises on purpose
    return printable(str(error) if worded else f"{type(error).__name__}: {error}")
