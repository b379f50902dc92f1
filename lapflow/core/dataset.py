"""Contract: images with labels."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from torch import Tensor

from lapflow.core.component import Component

Split = Literal["train", "test"]


class Dataset(Component):
    """A finite set of labelled images. Opening it is cheap; nothing is read before `size` or `read`.

    `shape` (c, h, w) and `num_classes` (0: no labels) are known without reading images, so that a model can be built.
    """

    kind = "dataset"
    grey_levels: int = 255
    """The number of grey levels above black of the originals: level g stands for -1 + 2 g / grey_levels."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every image."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The classes' names in label order; empty for a set without classes."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @abstractmethod
    def size(self, split: Split) -> int:
        """The number of images in a split; 0 if the set has no such split. Raises `DataError` when it cannot be read."""

    @abstractmethod
    def read(self, split: Split, index: int) -> tuple[Tensor, int]:
        """Image `index` of a split as float32 [c, h, w] in [-1, 1], and its label (0 without classes). A pure function.

        Raises `DataError` for an image that cannot be read: training then takes another (`lapflow.data.substitute`).
        """

    def name(self, split: Split, index: int) -> str:
        """What people call image `index` of a split, in lists of bad images for example. Each image's own; read without it."""
        return f"{split}/{index}"
