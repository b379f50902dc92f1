"""Training on one process in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lapflow.core.engine import Engine
from lapflow.core.errors import BackendError, CheckpointError


class Skeleton(Engine):
    """One process, one device, float32."""

    rank, world_size = 0, 1

    def __init__(
        self,
        *,
        device: Annotated[
            str, Field(description="auto, cpu or cuda; auto takes a GPU where there is one")
        ] = "auto",
    ) -> None:
        if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            raise BackendError(
                "this device cannot be used", got=device, expected="auto, cpu, or cuda where there is a GPU"
            )
        self.device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")

    # ------------------------------------------------------------------ processes

    def start(self) -> None:
        """There is nobody to join."""

    def stop(self) -> None:
        """There is nobody to leave."""

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        return flags

    def exchange(self, value: Any) -> list[Any]:
        return [value]

    # ------------------------------------------------------------------ steps

    def prepare(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        *,
        clip: float | None = None,
        units: Sequence[nn.Module] = (),
    ) -> nn.Module:
        self.model, self.clip = model.to(self.device), clip
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._clear()
        self.optimizer = optimizer(self.parameters.values())
        return model

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, enabled=False)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> float:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
        if math.isfinite(norm):
            if self.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.clip, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        self._clear()
        return float(norm)

    def _clear(self) -> None:
        """Zero gradients and not None: the rule of the contract for what takes no part in a step."""
        for p in self.parameters.values():
            p.grad = torch.zeros_like(p)

    # ------------------------------------------------------------------ what is kept

    def shards(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def gather(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.detach().cpu().clone() for name, x in shards.items()}

    def scatter(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x.to(self.device, copy=True) for name, x in whole.items()}

    def state(self) -> dict[str, Tensor]:
        kept = ((name, self.optimizer.state.get(p, {})) for name, p in self.parameters.items())
        return {
            f"{name}/{key}": value.detach().cpu().clone()
            for name, state in kept
            for key, value in state.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for full, value in state.items():
            name, key = full.rsplit("/", 1)
            if name not in self.parameters:
                raise CheckpointError(
                    "the optimizer state is of another model",
                    got=name,
                    expected="the names of this model's parameters",
                )
            self.optimizer.state[self.parameters[name]][key] = value.to(self.device, copy=True)
