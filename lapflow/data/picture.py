"""One picture file -> one tensor: decoding, colours, cropping and resizing, with Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lapflow.core.errors import DataError

Channels = Literal[1, 3]


def read_picture(path: Path, size: tuple[int, int], channels: Channels) -> Tensor:
    """The picture in `path` as float32 [channels, h, w] in [-1, 1], cropped and resized to `size` = (h, w).

    Of an animation the first frame. Raises `DataError`, naming the file, when it is missing, empty, truncated or not a picture.
    """
    try:
        with Image.open(path) as opened:
            picture = crop_resize(plain(opened, channels), size)
    except Image.DecompressionBombError as error:
        raise DataError("an image is too large to be read", where=str(path), got=str(error), remedy="scale it down") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(
            "an image cannot be read",
            where=str(path),
            got="an empty file" if path.is_file() and path.stat().st_size == 0 else f"{type(error).__name__}: {error}",
            expected="a whole PNG, JPEG or WebP file",
            remedy="replace or remove this file",
        ) from error
    pixels = np.array(picture, dtype=np.float32).reshape(*size, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous() / 127.5 - 1


def plain(picture: Image.Image, channels: Channels) -> Image.Image:
    """Any mode -> "L" or "RGB", 8 bits, upright.

    The EXIF orientation is applied. Transparency (alpha channel, transparent palette entry or colour) is composited on
    white. 16-bit grey is divided by 257, so that white stays white. Colour becomes grey by the luma of ITU-R 601.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16-bit grey PNG; older Pillow reports the 32-bit mode "I"
        levels = np.clip(np.asarray(picture, dtype=np.float32), 0, 65535) / 257
        picture = Image.fromarray(np.rint(levels).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("L" if channels == 1 else "RGB")


def crop_resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale to cover `size` = (h, w) and keep the centre, as ADM does (Dhariwal & Nichol 2021, `center_crop_arr`).

    Halve with a box filter while both sides stay at least twice the target, then one antialiased bicubic step. We crop
    to any aspect, ADM to squares; for those the result is ADM's.
    """
    height, width = size
    while picture.width >= 2 * width and picture.height >= 2 * height:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = max(width / picture.width, height / picture.height)
    covering = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    if covering != picture.size:
        picture = picture.resize(covering, Image.Resampling.BICUBIC)
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return picture.crop((left, top, left + width, top + height))
