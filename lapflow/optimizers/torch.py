"""Optimizers: AdamW, any other of torch's by its class's name, and Muon with AdamW."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from lapflow.core.errors import ConfigError, suggest
from lapflow.core.optimizer import Optimizer

BetasOption = Annotated[
    Sequence[Annotated[float, Field(ge=0, lt=1)]],
    Field(min_length=2, max_length=2, description="AdamW's decay rates of the two moments"),
]
WeightDecayOption = Annotated[float, Field(ge=0, description="decoupled weight decay")]

ELEMENTWISE = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "RAdam", "RMSprop", "Rprop", "SGD")
OTHERS = ("ASGD", "Adafactor", "NAdam")
"""Those that use a whole tensor, or keep further numbers for it, so that it must not be cut into parts."""


class AdamW(Optimizer):
    """AdamW, torch's fused kernel (Loshchilov & Hutter 2019); the default."""

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
        known = inspect.signature(self.cls.__init__).parameters.keys() - {"self", "params", "lr"}
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


class Muon(Optimizer):
    """torch's Muon for matrices in the network's repeated units, AdamW for all else.

    Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix by Newton-Schulz steps. Its update is
    scaled to the root mean square of AdamW's (Liu et al. 2025), so that one learning rate serves both.
    """

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
