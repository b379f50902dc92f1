"""Contract: the optimizer of a training run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping

import torch
from torch import nn

from lapflow.core.component import Component


class Optimizer(Component):
    """Makes a `torch.optim.Optimizer`. The trainer sets each step's learning rate in all groups."""

    kind = "optimizer"

    elementwise: bool = True
    """Whether the update of an entry of a weight uses that entry's gradient and state alone. Engines that cut
    weights into parts (`Engine.cuts_weights`) take such optimizers only."""

    @abstractmethod
    def build(
        self, parameters: Mapping[str, nn.Parameter], hidden: Collection[str], learning_rate: float
    ) -> torch.optim.Optimizer:
        """The optimizer of the trained `parameters`, by name; `hidden` names those inside the network's
        repeated units. Its state holds tensors only."""
