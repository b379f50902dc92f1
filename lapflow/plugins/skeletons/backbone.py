"""A small convolutional network for each scale, which sees its own scale only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lapflow.core.backbone import MAIN, Backbone, Condition, Heads
from lapflow.core.decomposition import Band
from lapflow.core.errors import ConfigError


class Tower(nn.Module):
    """Convolution, time and class added, convolution."""

    def __init__(self, band: Band, num_classes: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(band.channels, width, 3, padding=1)
        self.time = nn.Linear(1, width)
        self.labels = nn.Embedding(num_classes + 1, width)
        self.last = nn.Conv2d(width, band.channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        said = self.time(t[:, None]) + self.labels(labels)
        out: Tensor = self.last(F.silu(self.first(x) + said[:, :, None, None]))
        return out


class Skeleton(Backbone):
    """Two convolutions for each scale. Label `num_classes` is the null class."""

    def __init__(
        self,
        bands: Mapping[int, Band],
        num_classes: int = 0,
        *,
        width: Annotated[int, Field(ge=1, description="channels between the two convolutions")] = 32,
    ) -> None:
        super().__init__()
        if any(band.condition for band in bands.values()):
            raise ConfigError(
                "this network takes no coarser image beside its own",
                expected="a bridge that hands no condition on",
            )
        self.bands, self.num_classes, self.width = dict(bands), num_classes, width
        self.towers = nn.ModuleDict({str(k): Tower(band, num_classes, width) for k, band in bands.items()})

    def forward(  # type: ignore[override]  # one time for all scales, and nothing beside
        self, state: Mapping[int, Tensor], t: Tensor, condition: Condition | Tensor | None = None
    ) -> Heads:
        labels = Condition.of(condition).labels
        if labels is None:
            labels = torch.full(t.shape, self.num_classes, dtype=torch.int64, device=t.device)
        return {MAIN: {k: self.towers[str(k)](x, t.to(x.dtype), labels) for k, x in state.items()}}

    def multiply_adds(self, scales: Iterable[int]) -> dict[str, int]:
        bands = [self.bands[k] for k in scales]
        return {
            "linear": sum(2 * 9 * band.channels * self.width * band.height * band.width for band in bands)
        }
