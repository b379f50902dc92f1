"""What pyramids share that halve axes: which axes each level halves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

from pydantic import Field

from lapflow.core.decomposition import AXES, Decomposition
from lapflow.core.errors import ConfigError

LevelsOption = Annotated[int, Field(ge=1, description="number of scales K; K - 1 levels halve axes")]
AxesOption = Annotated[
    int | Sequence[bool] | Sequence[Sequence[bool]],
    Field(
        description="the samples' number of axes, 1 to 3, all halved by every level; or which are halved, "
        "such as [false, true, true] (a film's height and width); or one such list per level, coarse to fine"
    ),
]


class HalvingPyramid(Decomposition):
    """K scales; each level halves some axes, by default both of an image's."""

    def __init__(self, *, levels: LevelsOption = 2, axes: AxesOption = 2) -> None:
        self.levels = levels
        self._factors = _factors(levels, axes)
        self.axes = len(self._factors[0])

    def factors(self, scale: int) -> tuple[int, ...]:
        return self._factors[scale]

    def contraction(self, scale: int) -> float:
        """By what averaging divides white noise's std from scale 0 to `scale`: 2^(N/2) after N halvings."""
        return 2.0 ** (sum(sum(self.factors(k)) - self.axes for k in range(scale)) / 2)


def _factors(levels: int, axes: int | Sequence[bool] | Sequence[Sequence[bool]]) -> list[tuple[int, ...]]:
    """2 for an axis that is halved and 1 for another, from each scale to the next coarser one, fine to
    coarse. One entry at least, which says how many axes there are."""
    steps = max(levels - 1, 1)
    if isinstance(axes, int):
        found = [(2,) * axes] * steps
    elif all(isinstance(flag, bool) for flag in axes):
        found = [tuple(1 + flag for flag in cast(Sequence[bool], axes))] * steps
    else:
        found = [tuple(1 + flag for flag in step) for step in reversed(cast(Sequence[Sequence[bool]], axes))]
    if len(found[0]) not in AXES:
        raise ConfigError("samples have 1 to 3 axes", got=f"axes {axes}", expected="1, 2 or 3")
    if len(found) != steps or any(len(step) != len(found[0]) or 2 not in step for step in found):
        raise ConfigError(
            "the axes that are halved do not fit the levels",
            got=f"axes {axes} for {levels} scales",
            expected=f"one list, or {steps} of equal length, coarse to fine, with an axis halved in each",
        )
    return found
