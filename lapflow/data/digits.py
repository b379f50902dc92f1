"""The built-in data set: scikit-learn's handwritten digits, shipped with it (UCI "Optical Recognition of
Handwritten Digits", test part)."""

from __future__ import annotations

import functools
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.dataset import Dataset, Sample, Split
from lapflow.core.errors import BackendError, DataError


class Digits(Dataset):
    """1,797 handwritten digits, 8x8, one channel, ten classes; 17 grey levels.

    The split is fixed: of the n images of a class, the last round(held_out n) in scikit-learn's file are the
    test split, the others the train split, both in the file's order. The file goes writer by writer, so the
    held-out digits are other people's handwriting; a random split would put the same hands on both sides. The
    default gives 1,438 and 359 images.
    Raises `BackendError` when scikit-learn is not installed, at the first reading and not before.
    """

    grey_levels = 16

    def __init__(
        self,
        *,
        held_out: Annotated[
            float, Field(ge=0, lt=1, description="share of each class in the test split")
        ] = 0.2,
    ) -> None:
        self.held_out = held_out

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, 8, 8

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(digit) for digit in range(10))

    def size(self, split: Split) -> int:
        return len(_split(self.held_out)[split])

    def read(self, split: Split, index: int) -> Sample:
        members = _split(self.held_out)[split]
        if not 0 <= index < len(members):
            raise DataError(
                f"the digits' {split} split has no image {index}", expected=f"0 <= index < {len(members)}"
            )
        images, labels = _load()
        at = members[index]
        return Sample(images[at].clone(), {"label": labels[at]})


@functools.cache
def _load() -> tuple[Tensor, list[int]]:
    """All images [1797, 1, 8, 8] in [-1, 1] and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BackendError(
            "the digits data set comes with scikit-learn, which cannot be imported",
            got=str(error),
            remedy="pip install 'lapflow[demo]'",
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    levels = torch.from_numpy(pixels).to(torch.float32).reshape(-1, 1, 8, 8)
    return levels / 8 - 1, [int(label) for label in labels]


@functools.cache
def _split(held_out: float) -> dict[Split, list[int]]:
    """Positions of the images of each split."""
    labels = _load()[1]
    members = {label: [i for i, other in enumerate(labels) if other == label] for label in set(labels)}
    test = {i for rows in members.values() for i in rows[len(rows) - round(held_out * len(rows)) :]}
    return {"train": [i for i in range(len(labels)) if i not in test], "test": sorted(test)}
