"""Films of real handwritten digits that bounce inside a frame, made on the fly: scikit-learn's digits,
nothing to download.

A film is a pure function of (seed, split, index). Along each axis the digit's corner is at reflect(p + v t),
where reflect folds the line onto [0, room] like a ball between two walls, with whole p and v: every frame
holds the digit's own pixels. Other films than Srivastava et al. 2015's Moving MNIST, in small.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from lapflow.core.dataset import Dataset, Split
from lapflow.core.errors import DataError
from lapflow.core.random import keyed_generator
from lapflow.data.digits import Digits

SIDE = 8


def reflect(position: int, room: int) -> int:
    """A whole number folded onto [0, room]: 0, 1, ..., room, room - 1, ..., 1, 0, 1, ..."""
    folded = position % (2 * room)
    return min(folded, 2 * room - folded)


class MovingDigits(Dataset):
    """`frames` of `size` x `size` pixels with one digit of scikit-learn's 8x8 ones; ten classes. Digits of
    the train and test films are those of the digits' own splits, by other writers."""

    grey_levels = 16

    def __init__(
        self,
        *,
        size: Annotated[int, Field(ge=SIDE + 1, description="height and width of a frame")] = 16,
        frames: Annotated[int, Field(ge=1, description="frames of a film")] = 8,
        films: Annotated[
            int, Field(ge=1, description="films of the train split; a quarter as many to test")
        ] = 4000,
        speed: Annotated[int, Field(ge=0, description="largest speed along an axis, pixels a frame")] = 2,
        seed: Annotated[int, Field(ge=0, description="films are a function of it and of their index")] = 0,
    ) -> None:
        self.side, self.frames, self.films, self.speed, self.seed = size, frames, films, speed, seed
        self.digits = Digits()

    @property
    def shape(self) -> tuple[int, ...]:
        return 1, self.frames, self.side, self.side

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.digits.class_names

    def size(self, split: Split) -> int:
        return self.films if split == "train" else max(1, self.films // 4)

    def read(self, split: Split, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.size(split):
            raise DataError(
                f"there is no film {index} in the {split} split", expected=f"0 <= index < {self.size(split)}"
            )
        chosen, places = self.motion(split, index)
        digit, label = self.digits.read(split, chosen)
        film = torch.full(self.shape, -1.0)
        for frame, (top, left) in enumerate(places):
            film[:, frame, top : top + SIDE, left : left + SIDE] = digit
        return film, label

    def motion(self, split: Split, index: int) -> tuple[int, list[tuple[int, int]]]:
        """(which digit of the split, the top left corner [y, x] of its 8x8 pixels in each frame)."""
        generator = keyed_generator("moving-digits", self.seed, split, index)

        def draw(below: int) -> int:
            return int(torch.randint(below, (1,), generator=generator))

        room = self.side - SIDE
        chosen = draw(self.digits.size(split))
        start = [draw(2 * room) for _ in range(2)]  # on the unfolded line: either direction of motion
        speed = [draw(2 * self.speed + 1) - self.speed for _ in range(2)]
        places = [
            (reflect(start[0] + speed[0] * t, room), reflect(start[1] + speed[1] * t, room))
            for t in range(self.frames)
        ]
        return chosen, places
