"""The Kullback-Leibler autoencoders of latent diffusion (Rombach et al. 2022), as diffusers keeps them."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.codec import Codec
from lapflow.core.errors import BackendError, ConfigError, SizeError


class AutoencoderKLCodec(Codec):
    """A frozen diffusers `AutoencoderKL`, such as SD-VAE or EQ-VAE; latent = (posterior mean - shift) * scale.

    The posterior's mean, not a draw from it, so that encoding is a function of the image. The autoencoder is loaded at
    the first `encode` or `decode`; `latent_shape` needs only `factor` and `channels`, which loading then checks.
    """

    def __init__(
        self,
        path: Annotated[str, Field(min_length=1, description="hub name or local folder, for instance stabilityai/sd-vae-ft-ema")],
        *,
        factor: Annotated[int, Field(ge=1, description="image size over latent size")] = 8,
        channels: Annotated[int, Field(ge=1, description="latent channels")] = 4,
        scale: Annotated[float | None, Field(gt=0, description="latents are multiplied by it; null: the autoencoder's own")] = None,
        shift: Annotated[float | None, Field(description="subtracted from latents before scaling; null: the autoencoder's own")] = None,
    ) -> None:
        self.path, self.factor, self.channels, self.scale, self.shift = path, factor, channels, scale, shift
        self._model: Any = None

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        _, height, width = shape
        for axis, size in (("height", height), ("width", width)):
            if size < 1 or size % self.factor:
                below, above = size // self.factor * self.factor, (size // self.factor + 1) * self.factor
                raise SizeError(
                    f"an image of {axis} {size} has no latent of factor {self.factor}",
                    got=f"{height}x{width}",
                    expected=f"multiples of {self.factor}, for instance {' or '.join(str(s) for s in (below, above) if s)}",
                )
        return self.channels, height // self.factor, width // self.factor

    def encode(self, images: Tensor) -> Tensor:
        self.latent_shape((images.shape[1], images.shape[2], images.shape[3]))
        model = self._on(images.device)
        if images.shape[1] != model.config.in_channels:
            raise SizeError(
                "the autoencoder takes images with another number of channels", got=images.shape[1], expected=model.config.in_channels
            )
        mean = model.encode(images.to(model.dtype)).latent_dist.mean
        shift, scale = self._affine(model)
        return ((mean - shift) * scale).to(images.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        model = self._on(latents.device)
        shift, scale = self._affine(model)
        return model.decode((latents / scale + shift).to(model.dtype)).sample.to(latents.dtype)

    def _affine(self, model: Any) -> tuple[float, float]:
        """(shift, scale): what was given, otherwise what the autoencoder's config says (an older one has no shift)."""
        shift = self.shift if self.shift is not None else getattr(model.config, "shift_factor", None)
        return shift or 0.0, self.scale if self.scale is not None else model.config.scaling_factor

    def load(self) -> None:
        if self._model is None:
            self._model = self._read()

    def _on(self, device: torch.device) -> Any:
        """The autoencoder, loaded if it was not, on `device`."""
        self.load()
        return self._model if self._model.device == device else self._model.to(device)

    def _read(self) -> Any:
        try:
            from diffusers import AutoencoderKL
        except Exception as error:  # an unfit torch or transformers fails with other errors than ImportError
            raise BackendError(
                "the autoencoder-kl codec needs the package diffusers", got=str(error), remedy="pip install 'lapflow[diffusers]'"
            ) from error
        try:
            model = AutoencoderKL.from_pretrained(self.path)
        except (OSError, ValueError) as error:
            raise BackendError(
                "the autoencoder cannot be loaded",
                got=f"{self.path}: {error}",
                expected="a hub name or a folder of a diffusers AutoencoderKL",
            ) from error
        found = {"channels": model.config.latent_channels, "factor": 2 ** (len(model.config.block_out_channels) - 1)}
        told = {"channels": self.channels, "factor": self.factor}
        if found != told:
            raise ConfigError("the autoencoder is not what the codec's config says", got=f"{self.path} has {found}", expected=str(told))
        return model.requires_grad_(False).eval()
