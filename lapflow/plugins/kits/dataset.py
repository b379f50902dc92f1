"""The data set contract: pure reads of images in [-1, 1] with labels in range."""

from __future__ import annotations

from typing import ClassVar

import torch

from lapflow.core.dataset import Dataset, Split
from lapflow.plugins.kits.base import Conformance


class DatasetConformance(Conformance):
    """`looked_at` images of each split are read."""

    kind = "dataset"
    looked_at: ClassVar[int] = 8

    def make(self) -> Dataset:
        raise NotImplementedError("override make() to return the data set under test, with at least one training image")

    def indices(self, split: Split) -> list[int]:
        """Indices spread over the split, its first and last among them."""
        size = self.make().size(split)
        return sorted({i * (size - 1) // max(1, self.looked_at - 1) for i in range(self.looked_at)}) if size else []

    def test_there_is_something_to_train_on(self) -> None:
        """A positive training split, a test split of zero or more."""
        assert self.make().size("train") > 0
        assert self.make().size("test") >= 0

    def test_images_and_labels_are_as_declared(self) -> None:
        """float32 [c, h, w] of `shape` in [-1, 1]; an int label below num_classes, 0 without classes."""
        dataset = self.make()
        for split in ("train", "test"):
            for index in self.indices(split):
                image, label = dataset.read(split, index)
                assert tuple(image.shape) == dataset.shape
                assert image.dtype == torch.float32
                assert float(image.min()) >= -1
                assert float(image.max()) <= 1
                assert isinstance(label, int)
                assert 0 <= label < max(1, dataset.num_classes)

    def test_reads_are_pure(self) -> None:
        """The same index gives the same image, in any order, from another instance, and after a caller wrote into one."""
        first, second = self.make(), self.make()
        for index in reversed(self.indices("train")):
            image, label = first.read("train", index)
            kept = image.clone()
            image.zero_()
            again, same = second.read("train", index)
            assert torch.equal(again, kept)
            assert same == label
            assert torch.equal(first.read("train", index)[0], kept)

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
