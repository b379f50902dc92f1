"""Pixels as features: the plainest space for a Frechet distance, fit for small images."""

from __future__ import annotations

from typing import Annotated, Any

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lapflow.core.features import FeatureExtractor


class PixelFeatures(FeatureExtractor):
    """Flattened pixel values in grey levels, clipped to 0..grey_levels as in a picture file; not rounded.

    Sides of more than `max_side` pixels are averaged down to it: a Frechet distance costs features cubed.
    """

    def __init__(
        self,
        *,
        grey_levels: int = 255,
        max_side: Annotated[
            int, Field(ge=1, description="the largest side; larger images are averaged down to it")
        ] = 32,
    ) -> None:
        self.grey_levels, self.max_side = grey_levels, max_side

    def __call__(self, images: Tensor) -> Tensor:
        levels = ((images.detach().double() + 1) / 2 * self.grey_levels).clamp(0, self.grey_levels)
        sizes = levels.shape[2:]
        if max(sizes) > self.max_side:
            pools: tuple[Any, ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
            levels = pools[len(sizes) - 1](levels, [min(size, self.max_side) for size in sizes])
        return levels.flatten(1)

    @property
    def resize(self) -> str:
        return f"sides above {self.max_side} pixels averaged down to it"

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "grey_levels": self.grey_levels}
