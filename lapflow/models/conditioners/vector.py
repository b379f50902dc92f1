"""Named numbers, such as angles or physical parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from lapflow.core.condition import VECTOR, Annotations, Condition, Conditioner, Spec, Vector, VectorSpec
from lapflow.core.dataset import annotation
from lapflow.core.errors import ConfigError, DataError

Numbers = Annotated[list[float] | None, Field(description="one per number; null: none")]


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
