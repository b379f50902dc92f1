"""The codec contract: latents of the declared shape, and images back."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.codec import Codec
from lapflow.core.random import keyed_generator, rand
from lapflow.plugins.kits.base import Conformance


class CodecConformance(Conformance):
    """`shape` (c, h, w) of the images; `round_trip` bounds |decode(encode(x)) - x| if the codec promises that."""

    kind = "codec"
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    round_trip: ClassVar[float | None] = None

    def make(self) -> Codec:
        raise NotImplementedError("override make() to return the codec under test")

    def images(self) -> Tensor:
        """Two images in [-1, 1]."""
        return 2 * rand((2, *self.shape), keyed_generator("codec"), dtype=torch.float32, device="cpu") - 1

    def test_latents_have_the_declared_shape(self) -> None:
        """encode agrees with latent_shape; latents are finite."""
        codec = self.make()
        latents = codec.encode(self.images())
        assert tuple(latents.shape) == (2, *codec.latent_shape(self.shape))
        assert bool(torch.isfinite(latents).all())

    def test_images_come_back_in_their_shape(self) -> None:
        """decode(encode(x)) is an image of x's shape, near x where the codec says so."""
        codec, images = self.make(), self.images()
        back = codec.decode(codec.encode(images))
        assert back.shape == images.shape
        assert bool(torch.isfinite(back).all())
        if self.round_trip is not None:
            assert float((back - images).abs().max()) <= self.round_trip

    def test_samples_do_not_mix(self) -> None:
        """An image's latent does not depend on the others of its batch (to what batched kernels round)."""
        codec, images = self.make(), self.images()
        assert float((codec.encode(images)[:1] - codec.encode(images[:1])).abs().max()) <= 1e-3
