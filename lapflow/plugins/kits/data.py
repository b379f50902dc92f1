"""The kits of what stands around a network: data sets, codecs, conditioners, features."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from lapflow.core.codec import Codec, ModuleCodec
from lapflow.core.condition import Annotations, Conditioner, check_condition
from lapflow.core.dataset import Dataset, Split
from lapflow.core.errors import DataError, SizeError
from lapflow.core.features import FeatureExtractor
from lapflow.core.state import Shape
from lapflow.plugins.kits.base import Conformance, error_of, is_json, pictures
from lapflow.util.random import keyed_generator


class DatasetConformance(Conformance[Dataset]):
    """Pure reads of images in [-1, 1], or of their moments. `looked_at` images of each split are read."""

    kind = "dataset"
    made = ", with at least one training image"
    looked_at: ClassVar[int] = 8

    def indices(self, split: Split) -> list[int]:
        """Indices spread over the split, its first and last among them."""
        size, parts = self.make().size(split), max(1, self.looked_at - 1)
        return sorted({i * (size - 1) // parts for i in range(self.looked_at)}) if size else []

    def test_there_is_something_to_train_on(self) -> None:
        """A positive training split, a test split of zero or more."""
        assert self.make().size("train") > 0
        assert self.make().size("test") >= 0

    def test_samples_are_as_declared(self) -> None:
        """float32 of `sample_shape`, images in [-1, 1]; the same annotations of every sample, in JSON values,
        a label below num_classes where there are classes."""
        dataset = self.make()
        for split in ("train", "test"):
            for index in self.indices(split):
                sample = dataset.read(split, index)
                image = sample.value
                assert tuple(image.shape) == dataset.sample_shape
                assert image.dtype == torch.float32
                assert bool(torch.isfinite(image).all())
                assert dataset.encoding is not None or float(image.abs().max()) <= 1
                assert is_json(dict(sample.annotations))
                assert sample.annotations.keys() == dataset.read("train", 0).annotations.keys()
                if dataset.num_classes:
                    assert 0 <= sample.annotations["label"] < dataset.num_classes
                assert isinstance(sample.annotations.get("caption", ""), str)

    def test_reads_are_pure(self) -> None:
        """An index has one image, in any order, from another instance, and after a caller wrote into it."""
        first, second = self.make(), self.make()
        for index in reversed(self.indices("train")):
            one = first.read("train", index)
            kept = one.value.clone()
            one.value.zero_()
            again = second.read("train", index)
            assert torch.equal(again.value, kept)
            assert again.annotations == one.annotations
            assert torch.equal(first.read("train", index).value, kept)

    def test_mirrored_samples_are_of_the_mirrored_image(self) -> None:
        """Label and shape stay, an image is turned left to right; or a refusal, before the work too."""
        dataset, again = self.make(), self.make()
        try:
            dataset.require_mirrored()
        except (DataError, SizeError) as refusal:
            error_of(type(refusal), lambda: dataset.read_mirrored("train", 0))
            return
        for index in self.indices("train"):
            one, other = dataset.read("train", index), dataset.read_mirrored("train", index)
            image, mirrored = one.value, other.value
            assert one.annotations.get("label") == other.annotations.get("label")
            assert mirrored.shape == image.shape
            assert dataset.encoding is not None or torch.equal(mirrored, image.flip(-1))
            kept = mirrored.clone()
            mirrored.zero_()
            assert torch.equal(again.read_mirrored("train", index).value, kept)
            assert torch.equal(dataset.read_mirrored("train", index).value, kept)

    def test_moments_say_where_they_come_from(self) -> None:
        """A set of moments names the codec that made them and the images, in JSON values."""
        encoding = self.make().encoding
        if encoding is not None:
            assert encoding.codec
            assert all(is_json(value) for value in (encoding.codec, encoding.made_by, encoding.images))
            assert {"name"} <= set(encoding.made_by) & set(encoding.images)

    def test_classes_and_grey_levels(self) -> None:
        """As many names as classes, all different; a positive number of grey levels."""
        dataset = self.make()
        assert len(dataset.class_names) == dataset.num_classes == len(set(dataset.class_names))
        assert dataset.grey_levels > 0

    def test_names_tell_images_apart(self) -> None:
        """A name for each image, no two alike in or across splits, the same from another instance."""
        first, second = self.make(), self.make()
        splits: tuple[Split, ...] = ("train", "test")
        places = [(split, index) for split in splits for index in self.indices(split)]
        names = [first.name(split, index) for split, index in places]
        assert all(isinstance(name, str) and name for name in names)
        assert len(set(names)) == len(names)
        assert [second.name(split, index) for split, index in places] == names


class CodecConformance(Conformance[Codec]):
    """Latents of the declared shape, and images back. `shape` (c, *sizes) of the images; `round_trip` bounds
    |decode(encode(x)) - x| if the codec promises that."""

    kind = "codec"
    shape: ClassVar[Shape] = (3, 32, 32)
    round_trip: ClassVar[float | None] = None

    def images(self) -> Tensor:
        return pictures(2, self.shape, "codec")

    def test_latents_have_the_declared_shape(self) -> None:
        """encode agrees with latent_shape; latents are finite."""
        codec = self.make()
        latents = codec.encode(self.images())
        assert tuple(latents.shape) == (2, *codec.latent_shape(self.shape))
        assert bool(torch.isfinite(latents).all())

    def test_encoding_is_the_latents_of_the_moments(self) -> None:
        """Moments are finite, a pure function of the images; encode gives their latents, dtype kept."""
        codec, images = self.make(), self.images()
        moments = codec.posterior(images)
        assert bool(torch.isfinite(moments).all())
        assert torch.equal(moments, self.make().posterior(images))
        assert torch.equal(codec.encode(images), codec.latents(moments).to(images.dtype))
        assert codec.encode(images.bfloat16()).dtype == torch.bfloat16

    def test_draws_come_from_the_sample_s_own_generator(self) -> None:
        """With a generator each, a sample's latent is the one it has alone; without, nothing is drawn."""
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
        assert is_json(identity)
        assert identity == self.make().identity()
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


class ConditionerConformance(Conformance[Conditioner]):
    """Parts as their specs say. `annotations` of some samples, no two alike; `class_names` is the context."""

    kind = "conditioner"
    made = ", for self.class_names"
    class_names: ClassVar[tuple[str, ...]] = ("ant", "bee", "cat")
    annotations: ClassVar[Annotations] = {
        "label": [0, 1, 2],
        "caption": ["a six", "a large seven", "ein Käfer"],
        "angle": [0.0, 0.5, 2.0],
    }

    def rows(self, *index: int) -> dict[str, list[Any]]:
        return {name: [values[i] for i in index] for name, values in self.annotations.items()}

    def test_parts_are_as_their_specs_say(self) -> None:
        """The names of `parts`, one row per sample, on the CPU."""
        conditioner = self.make()
        given = conditioner(self.annotations)
        assert given.parts.keys() == conditioner.parts().keys()
        check_condition(given, 3, conditioner.parts())
        assert all(x.device.type == "cpu" for x in given.tensors())

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        """A sample alone, and in another order; from another instance."""
        whole, other = self.make()(self.annotations), self.make()
        for i in range(3):
            alone, last = other(self.rows(i)), other(self.rows((i + 1) % 3, i)).rows(slice(1, 2))
            mine = whole.rows(slice(i, i + 1)).tensors()
            for found in (alone, last):
                assert all(torch.equal(a, b) for a, b in zip(found.tensors(), mine, strict=True))

    def test_samples_told_apart(self) -> None:
        """Different annotations give different parts; a null is none of them."""
        given = self.make()(self.annotations)
        for part in given.parts.values():
            rows = [part.rows(slice(i, i + 1)) for i in range(3)] + [part.null().rows(slice(0, 1))]
            told = [[x.tolist() for x in row.tensors()] for row in rows]
            assert all(told[i] != told[j] for i in range(4) for j in range(i))

    def test_what_it_needs_is_asked_for(self) -> None:
        """Without an annotation that it `needs` it raises; others it does not miss."""
        conditioner = self.make()
        conditioner({name: self.annotations[name] for name in conditioner.needs})
        for name in conditioner.needs:
            rest = {other: values for other, values in self.annotations.items() if other != name}
            assert name in str(error_of(DataError, functools.partial(conditioner, rest)))


class FeaturesConformance(Conformance[FeatureExtractor]):
    """One float64 vector per image of `shape` (c, h, w); `tolerance` for what batched kernels round."""

    kind = "features"
    shape: ClassVar[tuple[int, int, int]] = (3, 16, 16)
    tolerance: ClassVar[float] = 1e-5

    def images(self) -> Tensor:
        return pictures(3, self.shape, "features")

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
        bound = self.tolerance * (1 + float(out.abs().max()))
        assert float((extractor(images[1:2]) - out[1:2]).abs().max()) <= bound
        assert torch.equal(extractor(images), out)
        assert not torch.allclose(out[0], out[1])

    def test_identity_is_plain_and_repeats(self) -> None:
        """A JSON object, the same for another instance; the resizing is said in words."""
        extractor, other = self.make(), self.make()
        for one in (extractor, other):
            one.load()
        identity = extractor.identity()
        assert identity
        assert is_json(identity)
        assert identity == other.identity()
        assert extractor.sha256 == other.sha256
        assert isinstance(extractor.resize, str)
        assert extractor.resize
