"""Conditioners: what a data set says of a sample (classes, numbers, captions) as parts of a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from lapflow.core.condition import (
    CAPTION,
    CLASS,
    VECTOR,
    Annotations,
    Classes,
    ClassesSpec,
    Condition,
    Conditioner,
    Spec,
    Tokens,
    TokensSpec,
    Vector,
    VectorSpec,
)
from lapflow.core.dataset import annotation
from lapflow.core.errors import ConfigError, DataError, printable

PAD = 256
"""The id behind a caption's last byte: padding is a token as any other, with an embedding that is learnt. So
no kernel needs a mask, and a sample does not depend on the others of its batch."""

Numbers = Annotated[list[float] | None, Field(description="one per number; null: none")]


class ClassLabels(Conditioner):
    """The annotation `label` as the part `class`; nothing where the data have no classes."""

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        self.count = len(class_names)
        self.needs = ("label",) if class_names else ()

    def parts(self) -> dict[str, Spec]:
        return {CLASS: ClassesSpec(self.count)} if self.count else {}

    def __call__(self, annotations: Annotations) -> Condition:
        if not self.count:
            return Condition()
        labels = torch.tensor([int(x) for x in annotation(annotations, "label")], dtype=torch.int64)
        return Condition({CLASS: Classes(labels)})


class NumberVector(Conditioner):
    """The annotations `names`, in this order, as the part `vector`: (x - mean) / std of each."""

    def __init__(
        self,
        class_names: Sequence[str] = (),
        *,
        names: Annotated[
            list[Annotated[str, Field(min_length=1)]],
            Field(min_length=1, description="annotations of the data set that are numbers"),
        ],
        mean: Numbers = None,
        std: Numbers = None,
    ) -> None:
        self.needs = tuple(names)
        self.mean = [0.0] * len(names) if mean is None else mean
        self.std = [1.0] * len(names) if std is None else std
        for what, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) != len(names) or (what == "std" and min(numbers) <= 0):
                raise ConfigError(
                    f"{what} does not fit the names",
                    got=f"{what} {numbers}, names {list(names)}",
                    expected=f"{len(names)} numbers" + (" above 0" if what == "std" else ""),
                )

    def parts(self) -> dict[str, Spec]:
        return {VECTOR: VectorSpec(len(self.needs))}

    def __call__(self, annotations: Annotations) -> Condition:
        columns = []
        for name, mean, std in zip(self.needs, self.mean, self.std, strict=True):
            try:
                column = torch.tensor([float(x) for x in annotation(annotations, name)], dtype=torch.float64)
            except (TypeError, ValueError) as error:
                raise DataError(f"the annotation {name!r} is not a number", got=error) from None
            if not bool(column.isfinite().all()):
                raise DataError(f"the annotation {name!r} is not finite", expected="finite numbers")
            columns.append((column - mean) / std)
        return Condition({VECTOR: Vector.of(torch.stack(columns, dim=1).float())})


class ByteCaptions(Conditioner):
    """The annotation `caption` as the part `caption`: `length` ids, the bytes of the caption's UTF-8 form and
    then `PAD` (as ByT5, Xue et al. 2022): nothing to download, every language."""

    needs = ("caption",)

    def __init__(
        self,
        class_names: Sequence[str] = (),
        *,
        length: Annotated[int, Field(ge=1, description="tokens of every caption: bytes and padding")] = 64,
        truncate: Annotated[
            bool, Field(description="cut captions that are longer; false: refuse them")
        ] = False,
    ) -> None:
        self.length, self.truncate = length, truncate

    def parts(self) -> dict[str, Spec]:
        return {CAPTION: TokensSpec(self.length, vocabulary=PAD + 1)}

    def __call__(self, annotations: Annotations) -> Condition:
        rows = [self._ids(caption) for caption in annotation(annotations, "caption")]
        return Condition({CAPTION: Tokens.of(torch.tensor(rows, dtype=torch.int64).reshape(-1, self.length))})

    def _ids(self, caption: object) -> list[int]:
        if not isinstance(caption, str):
            raise DataError("a caption is a text", got=repr(caption))
        found = list(caption.encode("utf-8"))
        if len(found) > self.length and not self.truncate:
            raise DataError(
                "a caption is longer than the conditioner takes",
                got=f"{len(found)} bytes: {printable(caption[:60])}",
                expected=f"at most {self.length} bytes",
                remedy="raise conditioner.length, or set conditioner.truncate=true",
            )
        return found[: self.length] + [PAD] * (self.length - len(found))
