"""Codecs, the space in which a flow lives: the samples themselves, or the latents of the Kullback-Leibler
autoencoders of latent diffusion (Rombach et al. 2022), as diffusers keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lapflow.core.codec import Codec, ModuleCodec
from lapflow.core.decomposition import require_images
from lapflow.core.errors import BackendError, ConfigError, SizeError
from lapflow.core.state import Shape
from lapflow.models.sizes import multiples
from lapflow.util.digest import tensors_sha256
from lapflow.util.random import Generators, randn


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


class AutoencoderKLCodec(ModuleCodec):
    """A frozen diffusers `AutoencoderKL`, such as SD-VAE or EQ-VAE; latent = (z - shift) * scale.

    z is the posterior's mean, so that encoding is a function of the image, or with posterior `sample` a draw
    from it. The moments are mean and log-variance, [b, 2 channels, h, w]. The autoencoder is loaded when
    first used; `latent_shape` needs only `factor` and `channels`, which loading then checks. Weights are read
    from safetensors only: a pickle is never opened.
    """

    def __init__(
        self,
        path: Annotated[
            str,
            Field(
                min_length=1, description="hub name or local folder, for instance stabilityai/sd-vae-ft-ema"
            ),
        ],
        *,
        factor: Annotated[int, Field(ge=1, description="image size over latent size")] = 8,
        channels: Annotated[int, Field(ge=1, description="latent channels")] = 4,
        scale: Annotated[
            float | None, Field(gt=0, description="latents are multiplied by it; null: the autoencoder's own")
        ] = None,
        shift: Annotated[
            float | None,
            Field(description="subtracted from latents before scaling; null: the autoencoder's own"),
        ] = None,
        posterior: Annotated[
            Literal["mean", "sample"],
            Field(description="train on the mean of an image's posterior, or on draws from it"),
        ] = "mean",
    ) -> None:
        self.path, self.factor, self.channels, self.scale, self.shift = path, factor, channels, scale, shift
        self._posterior = posterior
        self._model: Any = None

    def latent_shape(self, shape: Shape) -> Shape:
        require_images("the autoencoder", len(shape) - 1)
        _, height, width = shape
        for axis, size in (("height", height), ("width", width)):
            if size < 1 or size % self.factor:
                raise SizeError(
                    f"an image of {axis} {size} has no latent of factor {self.factor}",
                    got=f"{height}x{width}",
                    expected=f"multiples of {self.factor}, for instance {multiples(self.factor, size)}",
                )
        return self.channels, height // self.factor, width // self.factor

    def posterior(self, images: Tensor) -> Tensor:
        self.latent_shape(tuple(images.shape[1:]))
        model = self._on(images.device)
        if images.shape[1] != model.config.in_channels:
            raise SizeError(
                "the autoencoder takes images with another number of channels",
                got=images.shape[1],
                expected=model.config.in_channels,
            )
        # A CPU's kernels are chosen by batch size and round differently. One by one, the moments are the
        # image's alone.
        parts = images.to(model.dtype).split(1 if images.device.type == "cpu" else len(images))
        posteriors = [model.encode(part).latent_dist for part in parts]
        return torch.cat([torch.cat([p.mean, p.logvar], dim=1) for p in posteriors])

    def latents(self, moments: Tensor, generator: Generators | None = None) -> Tensor:
        z, log_variance = moments.chunk(2, dim=1)
        if self._posterior == "sample" and generator is not None:
            z = z + (log_variance / 2).exp() * randn(z.shape, generator, dtype=z.dtype, device=z.device)
        shift, scale = self.affine
        return (z - shift) * scale

    def decode(self, latents: Tensor) -> Tensor:
        model = self._on(latents.device)
        shift, scale = self.affine
        return model.decode((latents / scale + shift).to(model.dtype)).sample.to(latents.dtype)

    def identity(self) -> dict[str, Any]:
        """Class, latent size and the SHA-256 of the weights in float32, whatever file or dtype they come
        from."""
        self.load()
        weights = tensors_sha256({name: value.float() for name, value in self._model.state_dict().items()})
        return {
            "class": type(self._model).__name__,
            "channels": self.channels,
            "factor": self.factor,
            "weights": weights,
        }

    @property
    def affine(self) -> tuple[float, float]:
        """What was given, otherwise what the autoencoder's config says (an older one has no shift)."""
        self.load()
        own = self._model.config
        shift = self.shift if self.shift is not None else getattr(own, "shift_factor", None)
        return shift or 0.0, self.scale if self.scale is not None else own.scaling_factor

    def load(self) -> None:
        if self._model is None:
            self.set_module(self._read())

    @property
    def module(self) -> nn.Module:
        self.load()
        model: nn.Module = self._model
        return model

    def set_module(self, module: nn.Module) -> None:
        """A diffusers `AutoencoderKL`, which is frozen. Raises `ConfigError` unless its factor and channels
        are the config's."""
        if module is self._model:
            return
        settings = getattr(module, "config", None)
        blocks = getattr(settings, "block_out_channels", None)
        found = {
            "channels": getattr(settings, "latent_channels", None),
            "factor": 2 ** (len(blocks) - 1) if blocks else None,
        }
        told = {"channels": self.channels, "factor": self.factor}
        if found != told:
            name = getattr(settings, "_name_or_path", None) or type(module).__name__
            raise ConfigError(
                "the autoencoder is not what the codec's config says",
                got=f"{name} has {found}",
                expected=str(told),
            )
        self._model = module.requires_grad_(False).eval()

    def _on(self, device: torch.device) -> Any:
        """The autoencoder, loaded if it was not, on `device`; one that accelerate's hooks move is left to
        them."""
        self.load()
        placed = self._model.device == device or hasattr(self._model, "_hf_hook")
        return self._model if placed else self._model.to(device)

    def _read(self) -> Any:
        try:
            from diffusers import AutoencoderKL
        except Exception as error:  # an unfit torch or transformers fails with other errors than ImportError
            raise BackendError(
                "the autoencoder-kl codec needs the package diffusers",
                got=str(error),
                remedy="pip install 'lapflow[diffusers]'",
            ) from error
        try:
            return AutoencoderKL.from_pretrained(self.path, use_safetensors=True, low_cpu_mem_usage=False)
        except Exception as error:  # an OSError of what is missing; safetensors' own of a damaged file
            folder = Path(self.path)
            pickled = (
                [] if any(folder.glob("*.safetensors")) else sorted(p.name for p in folder.glob("*.bin"))
            )
            raise BackendError(
                "the autoencoder cannot be loaded",
                got=f"{self.path} holds {', '.join(pickled)}, which is a pickle"
                if pickled
                else f"{self.path}: {error}",
                expected="a hub name or a folder of a diffusers AutoencoderKL, with its weights in "
                "safetensors",
                remedy="convert the weights with safetensors, where you trust them" if pickled else None,
            ) from error
