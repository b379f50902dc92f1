"""Contract: how densely training visits the times of a segment. And the default, uniformly."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from lapflow.core.component import Component


class TimeLaw(Component):
    """A probability law on [0, 1], 0 a segment's start (noise) and 1 the end of its training times.

    A schedule draws u uniformly and trains at `quantile(u)` of the segment. `scale` is the finest active
    scale of the segment, `levels` the number of scales: a law may differ between scales.
    """

    kind = "time_law"

    @abstractmethod
    def quantile(self, u: Tensor, scale: int, levels: int) -> Tensor:
        """The inverse distribution function: u [n] in [0, 1) -> times [n] in [0, 1], rising, in u's dtype."""

    @abstractmethod
    def density(self, t: Tensor, scale: int, levels: int) -> Tensor:
        """The probability density at times t in (0, 1), shaped like t."""

    def require(self, levels: int) -> None:
        """Raises `ConfigError` unless the settings fit a composition of `levels` scales."""


class Uniform(TimeLaw):
    """Every time alike."""

    def quantile(self, u: Tensor, scale: int, levels: int) -> Tensor:
        return u

    def density(self, t: Tensor, scale: int, levels: int) -> Tensor:
        return torch.ones_like(t)
