"""Pixels as features: the plainest space for a Frechet distance, fit for small images."""

from __future__ import annotations

from torch import Tensor

from lapflow.core.features import FeatureExtractor


class PixelFeatures(FeatureExtractor):
    """Flattened pixel values in grey levels, clipped to 0..grey_levels as any picture file would; not rounded."""

    def __init__(self, *, grey_levels: int = 255) -> None:
        self.grey_levels = grey_levels

    def __call__(self, images: Tensor) -> Tensor:
        return ((images.detach().double() + 1) / 2 * self.grey_levels).clamp(0, self.grey_levels).flatten(1)
