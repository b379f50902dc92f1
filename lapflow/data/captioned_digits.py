"""Scenes of one or two handwritten digits with a caption: "a large seven, top left; a small two, top right".

Scene `index` of a split is a pure function of (seed, split, index): its digits are real ones (`digits`), of
that split's handwriting, and stand in different quarters. A large digit fills its quarter; a small one has
three quarters of its size and stands in the middle of it."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lapflow.core.dataset import Dataset, Sample, Split
from lapflow.core.errors import DataError
from lapflow.data.digits import Digits
from lapflow.util.random import keyed_generator

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACES = ("top left", "top right", "bottom left", "bottom right")
QUARTER, SMALL = 8, 6
"""Pixels a side of a quarter, which a large digit fills, and of a small digit."""


class CaptionedDigits(Dataset):
    """Scenes 16x16 of one channel, black where nothing is; no classes, the annotation `caption`. Captions
    name the digits in reading order; the longest has 55 bytes. A mirrored scene would need another caption,
    and its digits would be none: it is refused."""

    def __init__(
        self,
        *,
        train: Annotated[int, Field(ge=1, description="training scenes")] = 20_000,
        test: Annotated[int, Field(ge=0, description="held-out scenes")] = 1_000,
        seed: Annotated[
            int, Field(ge=0, description="every scene is a function of this, its split and its index")
        ] = 0,
    ) -> None:
        self.counts, self.seed, self.digits = {"train": train, "test": test}, seed, Digits()

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, 2 * QUARTER, 2 * QUARTER

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    def size(self, split: Split) -> int:
        return self.counts[split]

    def read(self, split: Split, index: int) -> Sample:
        if not 0 <= index < self.counts[split]:
            raise DataError(
                f"the {split} split has no scene {index}", expected=f"0 <= index < {self.counts[split]}"
            )
        generator = keyed_generator("captioned-digits", self.seed, split, index)
        number = 1 + int(torch.randint(2, (), generator=generator))
        places = sorted(torch.randperm(4, generator=generator)[:number].tolist())
        scene, claims = torch.full(self.shape, -1.0), []
        for place in places:
            small = bool(torch.randint(2, (), generator=generator))
            which = int(torch.randint(self.digits.size(split), (), generator=generator))
            digit = self.digits.read(split, which)
            _put(scene, digit.value, place, small)
            label = NUMBERS[digit.annotations["label"]]
            claims.append(f"a {'small' if small else 'large'} {label}, {PLACES[place]}")
        return Sample(scene, {"caption": "; ".join(claims)})

    def require_mirrored(self) -> None:
        raise DataError("a captioned scene has no mirror image", expected="training.flip: false")

    def read_mirrored(self, split: Split, index: int) -> Sample:
        self.require_mirrored()
        raise AssertionError


def _put(scene: Tensor, digit: Tensor, place: int, small: bool) -> None:
    """Write a digit [1, 8, 8] into the quarter `place` of the scene [1, 16, 16]."""
    if small:
        digit = F.interpolate(digit[None], size=(SMALL, SMALL), mode="area")[0]
    edge, side = (QUARTER - digit.shape[-1]) // 2, digit.shape[-1]
    top, left = QUARTER * (place // 2) + edge, QUARTER * (place % 2) + edge
    scene[:, top : top + side, left : left + side] = digit
