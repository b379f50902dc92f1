"""Any optimizer of `torch.optim`, by its class's name."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from lapflow.core.errors import ConfigError, suggest
from lapflow.core.optimizer import Optimizer

ELEMENTWISE = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "RAdam", "RMSprop", "Rprop", "SGD")
OTHERS = ("ASGD", "Adafactor", "NAdam")
"""Those that use a whole tensor, or keep further numbers for it, so that it must not be cut into parts."""


class TorchOptimizer(Optimizer):
    """An optimizer of torch with options of its own, for instance `{name: torch, optimizer: SGD, options:
    {momentum: 0.9}}`. Not LBFGS, which evaluates the loss itself, nor SparseAdam; Muon is `muon`."""

    def __init__(
        self,
        *,
        optimizer: Annotated[str, Field(description="the class in torch.optim, such as RAdam")],
        options: Annotated[
            dict[str, Any], Field(description="its arguments, without the learning rate")
        ] = {},  # noqa: B006
    ) -> None:
        if optimizer not in (*ELEMENTWISE, *OTHERS):
            raise ConfigError(
                "this is no optimizer of torch that can train a network here",
                got=f"optimizer {optimizer!r}",
                expected=suggest(optimizer, (*ELEMENTWISE, *OTHERS)),
                remedy="use the optimizer muon" if optimizer == "Muon" else None,
            )
        self.cls, self.options = getattr(torch.optim, optimizer), options
        self.elementwise = optimizer in ELEMENTWISE
        known = [
            name
            for name in inspect.signature(self.cls.__init__).parameters
            if name not in ("self", "params", "lr")
        ]
        if unknown := [name for name in options if name not in known]:
            raise ConfigError(
                f"torch.optim.{optimizer} has no option {unknown[0]!r}",
                got=f"options {options}",
                expected=suggest(unknown[0], known),
                remedy="the learning rate is training.learning_rate" if unknown[0] == "lr" else None,
            )
        self._make([nn.Parameter(torch.zeros(1))], 1e-3)  # what torch refuses is refused before any work

    def build(
        self, parameters: Mapping[str, nn.Parameter], hidden: Collection[str], learning_rate: float
    ) -> torch.optim.Optimizer:
        return self._make(list(parameters.values()), learning_rate)

    def _make(self, parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        try:
            made: torch.optim.Optimizer = self.cls(parameters, lr=learning_rate, **self.options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"torch.optim.{self.cls.__name__} does not take these options", got=f"{self.options}: {error}"
            ) from None
        return made
