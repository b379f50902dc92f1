"""Images as a picture file holds them: eight bits a channel."""

from __future__ import annotations

import torch
from torch import Tensor

from lapflow.core.errors import ConfigError


def eight_bits(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8 of the same shape: clipped, -1 -> 0, 1 -> 255, linear, rounded.

    Raises `ConfigError` where a pixel is not a number.
    """
    if torch.isnan(images).any():
        raise ConfigError(
            "a picture cannot be made of pixels that are not numbers",
            got=f"{int(torch.isnan(images).sum())} NaN",
        )
    levels = (images.detach().float().clamp(-1, 1) + 1) * 127.5
    return levels.round().to(torch.uint8)
