"""Averages over a grid as the features of a Frechet distance."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lapflow.core.features import FeatureExtractor


class Skeleton(FeatureExtractor):
    """The image averaged to `side` x `side` cells, flattened."""

    def __init__(self, *, side: Annotated[int, Field(ge=1, description="cells a side")] = 8) -> None:
        self.side = side

    def __call__(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images.detach().double(), self.side).flatten(1)
