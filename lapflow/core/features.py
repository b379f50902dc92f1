"""Contract: what a Frechet distance is measured in."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from lapflow.core.component import Component


class FeatureExtractor(Component):
    """Maps images to vectors. Context: `grey_levels` of the data set."""

    kind = "features"
    context = ("grey_levels",)

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Images [b, c, h, w] in [-1, 1] -> features [b, f], float64."""
