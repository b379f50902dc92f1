"""Contract: the space in which a flow lives, pixels or a codec's latents."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from lapflow.core.component import Component


class Codec(Component):
    """Maps images [b, c, h, w] in [-1, 1] to the flow's space and back."""

    kind = "codec"

    @abstractmethod
    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The (c, h, w) of the latent of an image of `shape`. Raises `SizeError` if the codec cannot take the size."""

    def load(self) -> None:
        """Bring what `encode` and `decode` need. Called before work starts, so that what is missing is said then."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images [b, c, h, w] in [-1, 1] -> latents, shifted and scaled for the flow."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> images [b, c, h, w], nominally in [-1, 1], not clipped."""
