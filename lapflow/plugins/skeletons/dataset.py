"""Images made by a formula: horizontal and vertical stripes."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

from lapflow.core.dataset import Dataset, Sample, Split
from lapflow.util.random import keyed_generator, rand


class Skeleton(Dataset):
    """Grey stripes of a drawn width and place. Image `index` of a split is a function of both."""

    def __init__(
        self,
        *,
        side: Annotated[int, Field(ge=4, description="pixels a side")] = 16,
        train: Annotated[int, Field(ge=1, description="training images")] = 1000,
        test: Annotated[int, Field(ge=0, description="held-out images")] = 200,
    ) -> None:
        self.side, self.sizes = side, {"train": train, "test": test}

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, self.side, self.side

    @property
    def class_names(self) -> tuple[str, ...]:
        return "horizontal", "vertical"

    def size(self, split: Split) -> int:
        return self.sizes[split]

    def read(self, split: Split, index: int) -> Sample:
        frequency, phase = rand(
            (2,), keyed_generator("stripes", split, index), dtype=torch.float32, device="cpu"
        ).tolist()
        label = index % 2
        place = torch.arange(self.side) / self.side
        line = torch.sin(2 * math.pi * ((1 + 2 * frequency) * place + phase))
        image = line.expand(1, self.side, self.side)
        return Sample((image if label else image.transpose(1, 2)).clone(), {"label": label})
