"""AdamW (Loshchilov & Hutter 2019), the default."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from lapflow.core.optimizer import Optimizer

BetasOption = Annotated[
    Sequence[Annotated[float, Field(ge=0, lt=1)]],
    Field(min_length=2, max_length=2, description="AdamW's decay rates of the two moments"),
]
WeightDecayOption = Annotated[float, Field(ge=0, description="decoupled weight decay")]


class AdamW(Optimizer):
    """AdamW, torch's fused kernel."""

    def __init__(self, *, betas: BetasOption = (0.9, 0.999), weight_decay: WeightDecayOption = 0.0) -> None:
        self.betas, self.weight_decay = (betas[0], betas[1]), weight_decay

    def build(
        self, parameters: Mapping[str, nn.Parameter], hidden: Collection[str], learning_rate: float
    ) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters.values(),
            lr=learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            fused=True,
        )
