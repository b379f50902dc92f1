"""Contract: how a training step runs on one or many processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from lapflow.core.component import Component


class Engine(Component):
    """Owns the wrapped model, the optimizer and the processes.

    Whatever the engine, a parameter that took no part in a step sees a **zero gradient** in it: AdamW then still decays
    its moments and its weight. The active set of scales changes from step to step, so every step meets this case.
    """

    kind = "engine"
    rank: int
    world_size: int
    device: torch.device

    @abstractmethod
    def prepare(self, model: nn.Module, optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> nn.Module:
        """Move and wrap `model`, make the optimizer over its parameters, and return the module to call in training."""

    @abstractmethod
    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the network and the loss are evaluated (the engine's precision)."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of `loss`."""

    @abstractmethod
    def step(self, learning_rate: float, clip: float | None) -> float:
        """Clip the gradients' norm, take an optimizer step, clear the gradients; returns the norm before clipping.

        With a norm that is not finite nothing is updated.
        """

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The model's whole, unwrapped state dict."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The optimizer's state as named tensors, all that `load` needs to go on bit for bit."""

    @abstractmethod
    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Take back what `weights` and `state` gave."""

    @abstractmethod
    def agree(self, flag: bool) -> bool:
        """True on every process if `flag` is true on any."""
