"""Films of real handwritten digits that bounce inside a frame, made on the fly: scikit-learn's digits,
nothing to download.

A film is a pure function of (seed, split, index). Along each axis the digit's corner is at reflect(p + v t),
where reflect folds the line onto [0, room] like a ball between two walls, with whole p and v > 0: every frame
holds the digit's own pixels. Other films than Srivastava et al. 2015's Moving MNIST, in small.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lapflow.core.dataset import Dataset, Sample, Split
from lapflow.core.errors import ConfigError, DataError
from lapflow.core.state import Shape
from lapflow.data.digits import Digits
from lapflow.util.random import keyed_generator

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
        speed: Annotated[int, Field(ge=1, description="largest speed along an axis, pixels a frame")] = 2,
        grid: Annotated[
            int, Field(ge=1, description="places and speeds are multiples of it, in pixels; divides size - 8")
        ] = 1,
        seed: Annotated[int, Field(ge=0, description="films are a function of it and of their index")] = 0,
    ) -> None:
        if (size - SIDE) % grid:
            raise ConfigError(
                "the room of a digit does not divide into places",
                got=f"size {size}, grid {grid}",
                expected=f"a grid that divides size - {SIDE}",
            )
        if speed < grid:
            raise ConfigError(
                "no speed is left for the digits",
                got=f"speed {speed}, grid {grid}",
                expected="a speed that is at least the grid, of which speeds are multiples",
            )
        self.side, self.frames, self.films, self.speed, self.seed = size, frames, films, speed, seed
        self.grid = grid
        self.digits = Digits()

    @property
    def shape(self) -> Shape:
        return 1, self.frames, self.side, self.side

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.digits.class_names

    def size(self, split: Split) -> int:
        return self.films if split == "train" else max(1, self.films // 4)

    def read(self, split: Split, index: int) -> Sample:
        if not 0 <= index < self.size(split):
            raise DataError(
                f"there is no film {index} in the {split} split", expected=f"0 <= index < {self.size(split)}"
            )
        chosen, places = self.motion(split, index)
        digit = self.digits.read(split, chosen)
        film = torch.full(self.shape, -1.0)
        for frame, (top, left) in enumerate(places):
            film[:, frame, top : top + SIDE, left : left + SIDE] = digit.value
        return Sample(film, digit.annotations)

    def motion(self, split: Split, index: int) -> tuple[int, list[tuple[int, int]]]:
        """(which digit of the split, the top left corner [y, x] of its 8x8 pixels in each frame)."""
        generator = keyed_generator("moving-digits", self.seed, split, index)

        def draw(below: int) -> int:
            return int(torch.randint(below, (1,), generator=generator))

        room, fastest = self.side - SIDE, self.speed // self.grid
        chosen = draw(self.digits.size(split))
        # on the unfolded line of length 2 room, where half of the places are on the way back
        start = [self.grid * draw(2 * room // self.grid) for _ in range(2)]
        speed = [self.grid * (1 + draw(fastest)) for _ in range(2)]
        y, x = ([reflect(p + v * t, room) for t in range(self.frames)] for p, v in zip(start, speed))
        return chosen, list(zip(y, x))

    judgements: ClassVar[Mapping[str, str]] = {
        "digit_seen": "share of a film's frames in which a classifier of real digits sees the class asked "
        "for, at the place where the digit is",
        "on_course": "share of films whose digit follows the law of motion within a pixel in every frame",
    }

    def judge(self, samples: Tensor, annotations: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
        labels = torch.as_tensor(annotations["label"])
        ink = ((samples.detach().float().cpu()[:, 0] + 1) * 8).clamp(0, 16)  # [n, t, y, x] in grey levels
        crops = digits_in(ink.flatten(0, 1), self.grid)
        seen = torch.from_numpy(classifier().predict(crops.flatten(1).numpy())).view(ink.shape[:2])
        return {
            "digit_seen": (seen == labels[:, None]).float().mean(1),
            "on_course": (self.deviation(ink) <= 1).float(),
        }

    def deviation(self, ink: Tensor) -> Tensor:
        """The largest distance [n], in pixels, of the centre of the ink [n, t, y, x] from its best path."""
        room, fastest, t = self.side - SIDE, self.speed // self.grid, torch.arange(self.frames)
        speeds = self.grid * torch.arange(1, fastest + 1)
        line = torch.arange(0, 2 * room, self.grid)[:, None, None] + speeds[:, None] * t
        folded = line % (2 * room)
        paths = torch.minimum(folded, 2 * room - folded).flatten(0, 1).float()  # [p, t]
        paths = paths - paths.mean(1, keepdim=True)
        mass, at = ink.sum((2, 3)).clamp(min=1e-6), torch.arange(self.side, dtype=torch.float32)
        worst = torch.zeros(len(ink))
        for axis in (2, 3):
            centre = (ink.sum(5 - axis) * at).sum(2) / mass
            centre = centre - centre.mean(1, keepdim=True)
            worst = torch.maximum(worst, (centre[:, None] - paths).abs().amax(2).amin(1))
        return worst


def digits_in(frames: Tensor, grid: int = 1) -> Tensor:
    """The 8x8 window of each frame [n, y, x] with the most ink, of several the middle one: [n, 8, 8]. Windows
    start at multiples of `grid` pixels."""
    mass = F.avg_pool2d(frames[:, None], SIDE, stride=grid)[:, 0]
    full = mass >= mass.amax((1, 2), keepdim=True) - 1e-4
    corners = [(grid * _middle(one.any(1)), grid * _middle(one.any(0))) for one in full]
    return torch.stack([frame[y : y + SIDE, x : x + SIDE] for frame, (y, x) in zip(frames, corners)])


def _middle(holds: Tensor) -> int:
    found = holds.nonzero().flatten()
    return int(found[len(found) // 2])


@functools.cache
def classifier() -> Any:
    """A support vector machine (scikit-learn's example), trained on the train split in grey levels 0..16."""
    digits = Digits()
    read = [digits.read("train", i) for i in range(digits.size("train"))]  # says what is missing
    from sklearn.svm import SVC

    levels = torch.stack([(sample.value.flatten() + 1) * 8 for sample in read])
    return SVC(gamma=0.001, C=10).fit(levels.numpy(), [s.annotations["label"] for s in read])
