"""Exponential moving average of the weights, in float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """shadow <- d shadow + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)) at update n (the warm-up of
    Karras et al. 2022's and timm's averages): early averages forget the initial weights fast."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.shadow = {
            name: w.detach().clone().float() if w.is_floating_point() else w.detach().clone()
            for name, w in weights.items()
        }

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        floating = [name for name, w in self.shadow.items() if w.is_floating_point()]
        average = get_ema_multi_avg_fn(decay)
        average([self.shadow[n] for n in floating], [weights[n].float() for n in floating], self.updates)

    def load(self, shadow: Mapping[str, Tensor], updates: int) -> None:
        for name, w in shadow.items():
            self.shadow[name].copy_(w)
        self.updates = updates
