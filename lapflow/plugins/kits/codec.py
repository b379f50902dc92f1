"""The codec contract: latents of the declared shape, and images back."""

from __future__ import annotations

import json
import math
from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.codec import Codec, ModuleCodec
from lapflow.core.state import Shape
from lapflow.plugins.kits.base import Conformance
from lapflow.util.random import keyed_generator, rand


class CodecConformance(Conformance):
    """`shape` (c, *sizes) of the images; `round_trip` bounds |decode(encode(x)) - x| if the codec promises
    that."""

    kind = "codec"
    shape: ClassVar[Shape] = (3, 32, 32)
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

    def test_encoding_is_the_latents_of_the_moments(self) -> None:
        """Moments are a pure function of the images, finite; encode is no more than latents of them, and
        keeps the dtype."""
        codec, images = self.make(), self.images()
        moments = codec.posterior(images)
        assert bool(torch.isfinite(moments).all())
        assert torch.equal(moments, self.make().posterior(images))
        assert torch.equal(codec.encode(images), codec.latents(moments).to(images.dtype))
        assert codec.encode(images.bfloat16()).dtype == torch.bfloat16

    def test_draws_come_from_the_sample_s_own_generator(self) -> None:
        """With a generator for each sample, a sample's latent is the one that it would have alone; without,
        nothing is drawn."""
        codec = self.make()
        moments = codec.posterior(self.images())
        together = codec.latents(moments, [keyed_generator("codec", i) for i in range(2)])
        for i in range(2):
            alone = codec.latents(moments[i : i + 1], [keyed_generator("codec", i)])
            assert torch.equal(together[i : i + 1], alone)
        state = torch.get_rng_state()
        assert torch.equal(codec.latents(moments), codec.latents(moments))
        assert torch.equal(torch.get_rng_state(), state), "the global generator was used"

    def test_identity_is_plain_and_repeats(self) -> None:
        """A JSON object, the same for another instance; shift and scale are numbers."""
        identity = self.make().identity()
        assert identity
        assert json.loads(json.dumps(identity)) == identity == self.make().identity()
        shift, scale = self.make().affine
        assert math.isfinite(shift)
        assert scale > 0

    def test_it_works_with_the_network_that_it_shows(self) -> None:
        """Another instance that adopts its `module` encodes and decodes the same."""
        codec, images, other = self.make(), self.images(), self.make()
        if not isinstance(codec, ModuleCodec):
            return
        assert isinstance(other, ModuleCodec)
        other.set_module(codec.module)
        assert other.module is codec.module
        assert "path" in codec.config
        latents = codec.encode(images)
        assert torch.equal(other.encode(images), latents)
        assert torch.equal(other.decode(latents), codec.decode(latents))

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
