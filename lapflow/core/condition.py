"""What a prediction is conditioned on: one `Condition` of named parts, each of which knows its own null. And
the contract of the conditioner, which makes it of what a data set says of its samples.

Samplers, guidance and training know no kind of part: they take rows, drop them, join two batches. What a
network must embed of a part is said beforehand by its spec. Shapes: b batch, n tokens, d width."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lapflow.core.component import Component
from lapflow.core.errors import ConfigError
from lapflow.core.state import Device, StateView, map_state
from lapflow.util.transfer import upload

NULL = -1
"""The class index of no class: `index % (count + 1)` is its row, the last, in a table of count + 1."""

CLASS, CAPTION, VECTOR, IMAGE = "class", "caption", "vector", "image"
"""The names of the built-in parts."""


@dataclass(frozen=True)
class Part(ABC):
    """One thing given of each sample of a batch. Its fields are tensors [b, ...], or {scale: [b, ...]}."""

    droppable: ClassVar[bool] = True
    """Whether it has a null, which guidance and dropout put in its place."""

    @abstractmethod
    def drop(self, rows: Tensor) -> Self:
        """The null in the place of the samples where `rows` [b] (bool) is true."""

    def null(self) -> Self:
        """Nothing given of any sample."""
        first = self.tensors()[0]
        return self.drop(torch.ones(len(first), dtype=torch.bool, device=first.device))

    def rows(self, index: Tensor | slice) -> Self:
        """The samples `index` of the batch."""
        return self._map(lambda x: x[index])

    def join(self, other: Self) -> Self:
        """Both batches as one."""
        return self._map(lambda x, y: torch.cat([x, y]), other)

    def to(self, device: Device) -> Self:
        """Everything on `device`, the copy queued where it can be (`upload`)."""
        return self._map(lambda x: upload(x, device))

    def tensors(self) -> list[Tensor]:
        """All tensors in it."""
        values = [getattr(self, f.name) for f in fields(self)]
        return [x for value in values for x in (value.values() if isinstance(value, Mapping) else [value])]

    def _map(self, function: Callable[..., Tensor], *others: Self) -> Self:
        found: dict[str, Any] = {}
        for f in fields(self):
            values = [getattr(part, f.name) for part in (self, *others)]
            by_scale = isinstance(values[0], Mapping)
            found[f.name] = map_state(function, *values) if by_scale else function(*values)
        return replace(self, **found)


@dataclass(frozen=True)
class Classes(Part):
    """Class indices `value` int64 [b]; `NULL` for no class."""

    value: Tensor

    def drop(self, rows: Tensor) -> Self:
        return replace(self, value=torch.where(rows, NULL, self.value))


@dataclass(frozen=True)
class _Given(Part):
    value: Tensor
    given: Tensor

    @classmethod
    def of(cls, value: Tensor) -> Self:
        """Of values given of every sample."""
        return cls(value, torch.ones(len(value), dtype=torch.bool, device=value.device))

    def drop(self, rows: Tensor) -> Self:
        return replace(self, given=self.given & ~rows)


@dataclass(frozen=True)
class Vector(_Given):
    """Numbers `value` float [b, d]; where `given` [b] (bool) is false they stand for nothing."""


@dataclass(frozen=True)
class Tokens(_Given):
    """A group of tokens of a fixed length: `value` int64 [b, n] are ids that the network embeds, float [b, n,
    d] embeddings that it projects; where `given` [b] (bool) is false they stand for nothing."""


@dataclass(frozen=True)
class Image(Part):
    """In a cascade the coarser image `value` {k: [b, c, *sizes]} beside the state's scale k, corrupted at
    `level` [b]. It has no null: a later stage is made of it."""

    droppable: ClassVar[bool] = False
    value: StateView
    level: Tensor

    def drop(self, rows: Tensor) -> Self:
        return self


@dataclass(frozen=True)
class Condition:
    """What is given of each sample of a batch, by name. A part that is missing is as good as its null."""

    parts: Mapping[str, Part] = field(default_factory=dict)

    @staticmethod
    def of(condition: Condition | Tensor | None) -> Condition:
        """A bare tensor stands for class indices [b], None for nothing given."""
        if isinstance(condition, Condition):
            return condition
        return Condition({} if condition is None else {CLASS: Classes(condition)})

    @property
    def labels(self) -> Tensor | None:
        """The class indices [b], `NULL` for no class; None where no classes are given."""
        part = self.parts.get(CLASS)
        return part.value if isinstance(part, Classes) else None

    @property
    def image(self) -> Image | None:
        """The coarser image of a cascade."""
        part = self.parts.get(IMAGE)
        return part if isinstance(part, Image) else None

    @property
    def droppable(self) -> bool:
        """Whether anything is given that has a null, so that guidance has something to leave out."""
        return any(part.droppable for part in self.parts.values())

    def beside(self, name: str, part: Part) -> Condition:
        """The same with one part more."""
        return Condition({**self.parts, name: part})

    def __or__(self, other: Condition) -> Condition:
        """The parts of both."""
        return Condition({**self.parts, **other.parts})

    def null(self) -> Condition:
        """Nothing given of any sample."""
        return self._map(lambda part: part.null())

    def drop(self, rows: Tensor) -> Condition:
        """Nothing given of the samples where `rows` [b] (bool) is true."""
        return self._map(lambda part: part.drop(rows))

    def rows(self, index: Tensor | slice) -> Condition:
        """What is given of the samples `index` of the batch."""
        return self._map(lambda part: part.rows(index))

    def join(self, other: Condition) -> Condition:
        """Both batches, of the same parts, as one."""
        assert self.parts.keys() == other.parts.keys(), f"{[*self.parts]} joined to {[*other.parts]}"
        return Condition({name: part.join(other.parts[name]) for name, part in self.parts.items()})

    def to(self, device: Device) -> Condition:
        """Everything on `device`."""
        return self._map(lambda part: part.to(device))

    def tensors(self) -> list[Tensor]:
        """All tensors in it."""
        return [x for part in self.parts.values() for x in part.tensors()]

    def _map(self, function: Callable[[Part], Part]) -> Condition:
        return Condition({name: function(part) for name, part in self.parts.items()})


def class_rows(labels: Tensor | None, count: int, like: Tensor) -> Tensor:
    """The row [b] of each sample in a table of `count` + 1 rows, the last one for no class; labels None: all
    of them have none. `like` [b, ...] gives batch size and device."""
    if labels is None:
        return torch.full((like.shape[0],), count, dtype=torch.int64, device=like.device)
    return labels % (count + 1)


# ---------------------------------------------------------------------- what a network embeds


@dataclass(frozen=True)
class ClassesSpec:
    """Classes 0 to `count` - 1."""

    count: int

    def accepts(self, part: Part) -> str | None:
        """None for a part of this kind; otherwise what is wrong with it."""
        if not isinstance(part, Classes) or part.value.ndim != 1 or part.value.dtype != torch.int64:
            return "one class index per sample, int64 [b]"
        outside = part.value[(part.value < NULL) | (part.value >= self.count)]
        if outside.numel():
            return f"classes 0 to {self.count - 1}, {NULL} for none; not {int(outside[0])}"
        return None


@dataclass(frozen=True)
class VectorSpec:
    """`size` numbers."""

    size: int

    def accepts(self, part: Part) -> str | None:
        """None for a part of this kind; otherwise what is wrong with it."""
        fits = isinstance(part, Vector) and part.value.is_floating_point()
        fits = fits and part.tensors()[0].shape[1:] == (self.size,)
        return None if fits else f"numbers, float [b, {self.size}]"


@dataclass(frozen=True)
class TokensSpec:
    """`length` tokens: ids below `vocabulary`, or with `width` embeddings of that width."""

    length: int
    vocabulary: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        assert (self.vocabulary is None) != (self.width is None), "tokens are ids or embeddings"

    def accepts(self, part: Part) -> str | None:
        """None for a part of this kind; otherwise what is wrong with it."""
        shape = (self.length,) if self.width is None else (self.length, self.width)
        if isinstance(part, Tokens) and tuple(part.value.shape[1:]) == shape:
            if self.vocabulary is None:
                return None if part.value.is_floating_point() else "embeddings in floating point"
            if (
                part.value.dtype == torch.int64
                and not ((part.value < 0) | (part.value >= self.vocabulary)).any()
            ):
                return None
        kind = "embeddings, float" if self.vocabulary is None else f"ids 0 to {self.vocabulary - 1}, int64"
        return f"{kind} {['b', *shape]}"


Spec = ClassesSpec | VectorSpec | TokensSpec
Specs = Mapping[str, Spec]


def specs(condition: Specs | int) -> dict[str, Spec]:
    """The parts that a network embeds; a number stands for so many classes, 0 for nothing."""
    if not isinstance(condition, int):
        return dict(condition)
    return {CLASS: ClassesSpec(condition)} if condition else {}


def num_classes(condition: Specs | int) -> int:
    """How many classes are among the parts; 0 for none."""
    spec = specs(condition).get(CLASS)
    return spec.count if isinstance(spec, ClassesSpec) else 0


def refuse_unknown(given: Condition, known: Specs) -> None:
    """Raises `ConfigError` for a part that the network does not embed; the coarser image apart."""
    for name in given.parts:
        if name not in known and name != IMAGE:
            raise ConfigError(
                f"a {name} is given to a network that was not made for it",
                got=f"condition: {name}",
                expected=", ".join(known) or "no condition: the network is unconditional",
            )


def check_condition(given: Condition, batch: int, known: Specs) -> None:
    """Raises `ConfigError` unless what is given of `batch` samples is what the network embeds."""
    refuse_unknown(given, known)
    for name, part in given.parts.items():
        lengths = {len(x) for x in part.tensors()}
        wrong = known[name].accepts(part) if name in known else None
        if wrong is not None or lengths != {batch}:
            raise ConfigError(
                f"the condition's {name} does not fit",
                got=", ".join(f"{x.dtype} {list(x.shape)}" for x in part.tensors()),
                expected=f"{wrong or 'one row per sample'}, b = {batch}",
            )


# ---------------------------------------------------------------------- where it comes from

Annotations = Mapping[str, Sequence[Any]]
"""What is said of the samples of a batch: by the annotation's name, one value per sample."""


class Conditioner(Component):
    """Annotations of a batch of samples -> parts of a `Condition`. No weights: embeddings are the network's.

    Context: `class_names` of the data, in the order of the labels; empty for data without classes.
    """

    kind = "conditioner"
    context = ("class_names",)

    needs: tuple[str, ...] = ()
    """The annotations that it reads."""

    @abstractmethod
    def parts(self) -> Mapping[str, Spec]:
        """What the network must embed, by the part's name. Empty: nothing is given."""

    @abstractmethod
    def __call__(self, annotations: Annotations) -> Condition:
        """The parts of b samples, on the CPU; each as its spec says. A pure function of each sample's own
        annotations. Raises `DataError` where one of `needs` is missing, or a value cannot be taken."""
