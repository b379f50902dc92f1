"""Contract: samples with what is said of them; or what a codec made of them."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pydantic
from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.decomposition import require_images
from lapflow.core.errors import DataError
from lapflow.core.state import Shape

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


def absolute_path(path: Any, folder: str | Path = "") -> Any:
    """A path, or each of a list, as absolute text: below `folder`, by default the working directory. As
    `pydantic.BeforeValidator(absolute_path)` it marks an argument that says where a set's data lie."""
    if isinstance(path, list | tuple):
        return [absolute_path(one, folder) for one in path]
    known = isinstance(path, str | os.PathLike) and os.fspath(path)
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path))) if known else path


def path_arguments(schema: type[pydantic.BaseModel]) -> list[str]:
    """The arguments of a data set that say where its data lie, not what they are."""
    return [name for name, one in schema.model_fields.items() if _is_path(one.annotation, *one.metadata)]


def _is_path(annotation: Any, *marks: Any) -> bool:
    marks, inside = (*marks, *getattr(annotation, "__metadata__", ())), map(_is_path, get_args(annotation))
    return any(getattr(m, "func", None) is absolute_path for m in marks) or any(inside)


@dataclass(frozen=True)
class Sample:
    """`value` float32 [c, *sizes] in [-1, 1] (or a codec's moments), and `annotations`: what is said of it,
    by name, as JSON values. `label` is an index into the set's `class_names`, `caption` a text; others are
    the set's own."""

    value: Tensor
    annotations: Mapping[str, Any] = field(default_factory=dict)


def annotation(annotations: Mapping[str, Sequence[Any]], name: str) -> Sequence[Any]:
    """The annotation `name` of a batch of samples. Raises `DataError` where the data do not say it."""
    if name not in annotations:
        raise DataError(
            f"the data say no {name!r} of a sample",
            got=", ".join(annotations) or "no annotations",
            expected=name,
            remedy="name a data set that does, or another conditioner",
        )
    return annotations[name]


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
    """A finite set of annotated images. Opening it is cheap; nothing is read before `size` or `read`.

    `shape` (c, *sizes) and `num_classes` (0: no labels) are known without reading images, to build a model.

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
        """The number of images in a split, 0 for one it lacks. Raises `DataError` if it cannot be read."""

    @abstractmethod
    def read(self, split: Split, index: int) -> Sample:
        """Sample `index` of a split. Every sample has the same annotations, `label` among them where the set
        has classes. A pure function.

        Raises `ImageError` for an image that cannot be read while others can: training then takes another
        (`lapflow.data.quarantine`). Any other error ends the run.
        """

    def read_mirrored(self, split: Split, index: int) -> Sample:
        """As `read`, of the image turned left to right. The moments of a mirrored image are not the mirrored
        moments, and a caption may speak of left and right: such a set overrides this."""
        assert self.encoding is None, "a set of moments must say what those of a mirrored image are"
        sample = self.read(split, index)
        require_images("mirroring", sample.value.ndim - 1)
        return replace(sample, value=sample.value.flip(-1))

    def require_mirrored(self) -> None:
        """Raises `DataError` where `read_mirrored` cannot answer, `SizeError` for samples that are not
        images. Called before work starts."""
        require_images("mirroring", len(self.shape) - 1)

    judgements: ClassVar[Mapping[str, str]] = {}
    """What `judge` measures: {name: what it says, in words}."""

    def judge(self, samples: Tensor, annotations: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
        """Figures that only this set can give of samples [n, c, *sizes] which were asked for with
        `annotations`: {name of `judgements`: [n]}. An evaluation states their means, beside those of real
        held-out samples."""
        raise AssertionError(f"{type(self).__name__} names no judgements")

    def contents(self, split: Split) -> dict[str, int | str]:
        """{name of a file: its size in bytes, or a hash that is at hand} of a split, by which a run knows its
        data again; no file is opened. Unless a set overrides it, `name`s, or the split's size without any."""
        size, numbered = self.size(split), type(self).name is Dataset.name
        return {split: size} if numbered else {self.name(split, index): 0 for index in range(size)}

    def name(self, split: Split, index: int) -> str:
        """What people call image `index` of a split, in lists of bad images for example. Each image's own;
        read without it."""
        return f"{split}/{index}"
