"""The feature contract: one float64 vector per image."""

from __future__ import annotations

import json
from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.features import FeatureExtractor
from lapflow.plugins.kits.base import Conformance
from lapflow.util.random import keyed_generator, rand


class FeaturesConformance(Conformance):
    """`shape` (c, h, w) of the images; `tolerance` for what batched kernels round."""

    kind = "features"
    shape: ClassVar[tuple[int, int, int]] = (3, 16, 16)
    tolerance: ClassVar[float] = 1e-5

    def make(self) -> FeatureExtractor:
        raise NotImplementedError("override make() to return the feature extractor under test")

    def images(self) -> Tensor:
        return 2 * rand((3, *self.shape), keyed_generator("features"), dtype=torch.float32, device="cpu") - 1

    def test_one_finite_float64_vector_per_image(self) -> None:
        """[b, c, h, w] -> [b, f], detached."""
        out = self.make()(self.images())
        assert out.ndim == 2
        assert len(out) == 3
        assert out.dtype == torch.float64
        assert not out.requires_grad
        assert bool(torch.isfinite(out).all())

    def test_images_do_not_mix_and_are_told_apart(self) -> None:
        """An image's features are its own, the same at every call, and differ from another image's."""
        extractor, images = self.make(), self.images()
        out = extractor(images)
        assert float((extractor(images[1:2]) - out[1:2]).abs().max()) <= self.tolerance * (
            1 + float(out.abs().max())
        )
        assert torch.equal(extractor(images), out)
        assert not torch.allclose(out[0], out[1])

    def test_identity_is_plain_and_repeats(self) -> None:
        """A JSON object, the same for another instance; the resizing is said in words."""
        extractor, other = self.make(), self.make()
        for one in (extractor, other):
            one.load()
        identity = extractor.identity()
        assert identity
        assert json.loads(json.dumps(identity)) == identity == other.identity()
        assert extractor.sha256 == other.sha256
        assert isinstance(extractor.resize, str)
        assert extractor.resize
