"""What generators and discriminators are made of: residual blocks of convolutions that are told the class."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """x + conv(act(scale(y) conv(act(x)) + shift(y))), y the class; no layer mixes the samples of a batch."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.said = nn.Embedding(num_classes + 1, 2 * width)
        self.last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.normal_(self.said.weight, std=0.3)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scale, shift = self.said(labels)[:, :, None, None].chunk(2, dim=1)
        inner = self.first(F.leaky_relu(x, 0.2)) * (1 + scale) + shift
        out: Tensor = x + self.last(F.leaky_relu(inner, 0.2))
        return out
