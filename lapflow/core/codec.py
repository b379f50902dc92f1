"""Contract: the space in which a flow lives, pixels or a codec's latents."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from lapflow.core.component import Component
from lapflow.core.state import Shape
from lapflow.util.random import Generators


class Codec(Component):
    """Maps images (or series, or films) [b, c, *sizes] in [-1, 1] to the flow's space and back.

    Encoding goes in two steps. `posterior` is the costly one, a pure function of the image that a cache can
    hold; `latents` is the cheap one, which may draw, so it is done anew each time. Neither mixes samples.
    """

    kind = "codec"

    @abstractmethod
    def latent_shape(self, shape: Shape) -> Shape:
        """The (c, *sizes) of an image's latent. Raises `SizeError` for a size that the codec cannot take."""

    def load(self) -> None:
        """Bring what encoding and decoding need. Called before work starts, to say then what is missing."""

    @property
    def affine(self) -> tuple[float, float]:
        """(shift, scale): latent = (what the moments stand for - shift) * scale."""
        return 0.0, 1.0

    @abstractmethod
    def posterior(self, images: Tensor) -> Tensor:
        """Images [b, c, *sizes] in [-1, 1] -> what the codec's law of their latents is made of, [b, m,
        *sizes'], not shifted or scaled. Draws nothing."""

    @abstractmethod
    def latents(self, moments: Tensor, generator: Generators | None = None) -> Tensor:
        """Moments [b, m, *sizes'] -> latents [b, *latent_shape], shifted and scaled for the flow.

        A codec whose config asks for it draws them, with `generator` or one generator for each sample.
        Without a generator nothing is drawn, whatever the config says.
        """

    def encode(self, images: Tensor, generator: Generators | None = None) -> Tensor:
        """Images -> latents in the images' dtype: `latents` of their `posterior`."""
        return self.latents(self.posterior(images), generator).to(images.dtype)

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> images [b, c, *sizes], nominally in [-1, 1], not clipped."""

    def identity(self) -> dict[str, Any]:
        """What `posterior` depends on, as JSON values: codecs of equal identities may share cached moments.

        By default the class and all of its config. A codec with weights names these by a hash, and leaves out
        where they lie and what only `latents` and `decode` use.
        """
        return {"class": type(self).__qualname__, **self.config}


class ModuleCodec(Codec):
    """A codec with a network. Its argument `path` names the folder where such a network was saved."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The network that encodes and decodes, loaded if it was not, in the form that `set_module` takes."""

    @abstractmethod
    def set_module(self, module: nn.Module) -> None:
        """Work with this network instead of loading one, wherever its owner moves it. Raises `ConfigError`
        for one that is not what the config says."""
