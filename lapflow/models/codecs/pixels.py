"""No codec: the flow lives in the samples themselves."""

from __future__ import annotations

from torch import Tensor

from lapflow.core.codec import Codec
from lapflow.core.state import Shape
from lapflow.util.random import Generators


class Pixels(Codec):
    """The identity: moments and latents are the image."""

    def latent_shape(self, shape: Shape) -> Shape:
        return shape

    def posterior(self, images: Tensor) -> Tensor:
        return images

    def latents(self, moments: Tensor, generator: Generators | None = None) -> Tensor:
        return moments

    def decode(self, latents: Tensor) -> Tensor:
        return latents
