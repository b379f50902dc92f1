"""Muon (Jordan et al. 2024) for the matrices of the network's blocks, AdamW for every other weight.

Muon orthogonalises the momentum of a matrix by Newton-Schulz steps; torch's `torch.optim.Muon` does it. Its
update is scaled to the root mean square of AdamW's (Liu et al. 2025), so that one learning rate serves both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from lapflow.core.optimizer import Optimizer
from lapflow.optimizers.adamw import BetasOption, WeightDecayOption


class Muon(Optimizer):
    """torch's Muon for matrices in the network's repeated units, AdamW for embeddings, final layers and
    vectors."""

    elementwise = False

    def __init__(
        self,
        *,
        momentum: Annotated[float, Field(ge=0, lt=1, description="Muon's decay rate of the momentum")] = 0.95,
        betas: BetasOption = (0.9, 0.999),
        weight_decay: WeightDecayOption = 0.0,
    ) -> None:
        self.momentum, self.betas, self.weight_decay = momentum, (betas[0], betas[1]), weight_decay

    def build(
        self, parameters: Mapping[str, nn.Parameter], hidden: Collection[str], learning_rate: float
    ) -> torch.optim.Optimizer:
        matrices = {name: p for name, p in parameters.items() if p.ndim == 2 and name in hidden}
        rest = [p for name, p in parameters.items() if name not in matrices]
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            parts.append(
                torch.optim.Muon(
                    matrices.values(),
                    lr=learning_rate,
                    momentum=self.momentum,
                    weight_decay=self.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if rest:
            parts.append(
                torch.optim.AdamW(
                    rest, lr=learning_rate, betas=self.betas, weight_decay=self.weight_decay, fused=True
                )
            )
        return Combined(parts)


class Combined(torch.optim.Optimizer):
    """Several optimizers, each of weights of its own, as one: their groups, and one state for all of them."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts, self.state = parts, defaultdict(dict)
        for part in parts:
            part.state = self.state

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()
