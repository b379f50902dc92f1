"""Contract: images with labels, or what a codec made of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.decomposition import require_images
from lapflow.core.state import Shape

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class Encoding:
    """How the moments that a data set holds in the place of images were made.

    `codec` is the `Codec.identity` of what made them and `made_by` the codec as a config names it; `images`
    is the data set of the images, as a config names it; `shape` (m, *sizes) is that of an image's moments.
    """

    codec: Mapping[str, Any]
    made_by: Mapping[str, Any]
    images: Mapping[str, Any]
    shape: Shape


class Dataset(Component):
    """A finite set of labelled images. Opening it is cheap; nothing is read before `size` or `read`.

    `shape` (c, *sizes) and `num_classes` (0: no labels) are known without reading images, so that a model can
    be built.

    A set may hold a codec's moments of its images instead. It then says so by `encoding`; `read` gives
    moments, and `shape` and `grey_levels` are still those of the images.
    """

    kind = "dataset"
    grey_levels: int = 255
    """The number of grey levels above black of the originals: level g stands for -1 + 2 g / grey_levels."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """(c, *sizes) of every image."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The classes' names in label order; empty for a set without classes."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def encoding(self) -> Encoding | None:
        """How the moments that `read` gives were made; None: it gives images."""
        return None

    @property
    def sample_shape(self) -> Shape:
        """The shape of what `read` gives."""
        return self.shape if self.encoding is None else self.encoding.shape

    @abstractmethod
    def size(self, split: Split) -> int:
        """The number of images in a split; 0 if the set has no such split. Raises `DataError` when it cannot
        be read."""

    @abstractmethod
    def read(self, split: Split, index: int) -> tuple[Tensor, int]:
        """Image `index` of a split as float32 [c, *sizes] in [-1, 1] (or its moments), and its label (0
        without classes). A pure function.

        Raises `ImageError` for an image that cannot be read while others can: training then takes another
        (`lapflow.data.substitute`). Any other error ends the run.
        """

    def read_mirrored(self, split: Split, index: int) -> tuple[Tensor, int]:
        """As `read`, of the image turned left to right. The moments of a mirrored image are not the mirrored
        moments."""
        assert self.encoding is None, "a set of moments must say what those of a mirrored image are"
        image, label = self.read(split, index)
        require_images("mirroring", image.ndim - 1)
        return image.flip(-1), label

    def require_mirrored(self) -> None:
        """Raises `DataError` where `read_mirrored` cannot answer, `SizeError` for samples that are not
        images. Called before work starts."""
        require_images("mirroring", len(self.shape) - 1)

    def name(self, split: Split, index: int) -> str:
        """What people call image `index` of a split, in lists of bad images for example. Each image's own;
        read without it."""
        return f"{split}/{index}"
