"""No codec: the flow lives in the images themselves."""

from __future__ import annotations

from torch import Tensor

from lapflow.core.codec import Codec


class Pixels(Codec):
    """The identity."""

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return shape

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents
