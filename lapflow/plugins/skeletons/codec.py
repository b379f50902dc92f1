"""Pixels in another unit."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from lapflow.core.codec import Codec
from lapflow.core.random import Generators
from lapflow.core.state import Shape


class Skeleton(Codec):
    """The latent is the image times `scale`."""

    def __init__(
        self, *, scale: Annotated[float, Field(gt=0, description="latent = scale times the image")] = 2.0
    ) -> None:
        self.scale = scale

    @property
    def affine(self) -> tuple[float, float]:
        return 0.0, self.scale

    def latent_shape(self, shape: Shape) -> Shape:
        return shape

    def moments(self, images: Tensor) -> Tensor:
        return images

    def latents(self, moments: Tensor, generator: Generators | None = None) -> Tensor:
        return self.scale * moments

    def decode(self, latents: Tensor) -> Tensor:
        return latents / self.scale
