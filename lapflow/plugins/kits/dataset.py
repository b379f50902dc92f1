"""The data set contract: pure reads of images in [-1, 1], or of their moments, with labels in range."""

from __future__ import annotations

import json
from typing import ClassVar

import torch

from lapflow.core.dataset import Dataset, Split
from lapflow.core.errors import DataError, SizeError
from lapflow.plugins.kits.base import Conformance, error_of


class DatasetConformance(Conformance):
    """`looked_at` images of each split are read."""

    kind = "dataset"
    looked_at: ClassVar[int] = 8

    def make(self) -> Dataset:
        raise NotImplementedError(
            "override make() to return the data set under test, with at least one training image"
        )

    def indices(self, split: Split) -> list[int]:
        """Indices spread over the split, its first and last among them."""
        size = self.make().size(split)
        return (
            sorted({i * (size - 1) // max(1, self.looked_at - 1) for i in range(self.looked_at)})
            if size
            else []
        )

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
                assert json.loads(json.dumps(dict(sample.annotations))) == dict(sample.annotations)
                assert sample.annotations.keys() == dataset.read("train", 0).annotations.keys()
                if dataset.num_classes:
                    assert 0 <= sample.annotations["label"] < dataset.num_classes
                assert isinstance(sample.annotations.get("caption", ""), str)

    def test_reads_are_pure(self) -> None:
        """The same index gives the same image, in any order, from another instance, and after a caller wrote
        into one."""
        first, second = self.make(), self.make()
        for index in reversed(self.indices("train")):
            one = first.read("train", index)
            image = one.value
            kept = image.clone()
            image.zero_()
            again = second.read("train", index)
            assert torch.equal(again.value, kept)
            assert again.annotations == one.annotations
            assert torch.equal(first.read("train", index).value, kept)

    def test_mirrored_samples_are_of_the_mirrored_image(self) -> None:
        """The same label and shape, purely; an image itself is turned left to right. Or a refusal, given
        before the work too."""
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
            for mapping in (encoding.codec, encoding.made_by, encoding.images):
                assert json.loads(json.dumps(mapping)) == mapping
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
