"""A small convolutional network for each scale, which sees its own scale only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lapflow.core.backbone import MAIN, Backbone, Heads
from lapflow.core.condition import CLASS, Condition, Specs, num_classes, specs
from lapflow.core.decomposition import Band
from lapflow.core.errors import ConfigError


class Tower(nn.Module):
    """Convolution, time and class added, convolution."""

    def __init__(self, band: Band, classes: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(band.channels, width, 3, padding=1)
        self.time = nn.Linear(1, width)
        self.labels = nn.Embedding(classes + 1, width)
        self.last = nn.Conv2d(width, band.channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        said = self.time(t[:, None]) + self.labels(labels)
        out: Tensor = self.last(F.silu(self.first(x) + said[:, :, None, None]))
        return out


class Skeleton(Backbone):
    """Two convolutions for each scale, and an embedding of the class."""

    def __init__(
        self,
        bands: Mapping[int, Band],
        condition: Specs | int = 0,
        *,
        width: Annotated[int, Field(ge=1, description="channels between the two convolutions")] = 32,
    ) -> None:
        super().__init__()
        if any(band.condition for band in bands.values()):
            raise ConfigError(
                "this network takes no coarser image beside its own",
                expected="a bridge that hands no condition on",
            )
        if other := [name for name in specs(condition) if name != CLASS]:
            raise ConfigError("this network embeds classes only", got=", ".join(other))
        self.bands, self.condition, self.width = dict(bands), specs(condition), width
        classes = num_classes(condition)
        self.towers = nn.ModuleDict({str(k): Tower(band, classes, width) for k, band in bands.items()})

    def forward(  # type: ignore[override]  # one time for all scales, and nothing beside
        self, state: Mapping[int, Tensor], t: Tensor, condition: Condition | Tensor | None = None
    ) -> Heads:
        labels = self.class_rows(self.known(condition), t)
        return {MAIN: {k: self.towers[str(k)](x, t.to(x.dtype), labels) for k, x in state.items()}}
