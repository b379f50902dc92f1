"""The torch engine: one process, on CPU or one GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lapflow.core.engine import Engine
from lapflow.core.errors import BackendError, CheckpointError


class TorchEngine(Engine):
    """Plain PyTorch on one process; bf16 by autocast with fp32 weights."""

    rank, world_size = 0, 1

    def __init__(
        self,
        *,
        device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")] = "auto",
        precision: Annotated[Literal["fp32", "bf16"], Field(description="fp32, or bf16 autocast over fp32 weights")] = "fp32",
        compile: Annotated[bool, Field(description="torch.compile the network, one graph per set of active scales")] = False,
    ) -> None:
        self.device = resolve_device(device)
        self.precision, self.compile = precision, compile

    def prepare(self, model: nn.Module, optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> nn.Module:
        self.model = model.to(self.device)
        self.names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = optimizer(self.parameters)
        # Every parameter has a gradient from the start: the zero gradient of an inactive scale (see the contract).
        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        if self.compile:
            self.model.compile(fullgraph=True)
        return self.model

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, learning_rate: float, clip: float | None) -> float:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None]).item()
        if norm == norm and norm != float("inf"):
            if clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, clip, torch.tensor(norm, device=self.device))
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        return norm

    def weights(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def state(self) -> dict[str, Tensor]:
        return {
            f"{name}/{key}": value
            for name, p in zip(self.names, self.parameters, strict=True)
            for key, value in self.optimizer.state.get(p, {}).items()
        }

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(dict(weights))
        parameters = dict(zip(self.names, self.parameters, strict=True))
        for full, value in state.items():
            name, key = full.rsplit("/", 1)
            if name not in parameters:
                raise CheckpointError("the optimizer state is of another model", got=name, expected="the names of this model's parameters")
            # The fused AdamW keeps its step counts, like its moments, beside the parameter.
            self.optimizer.state[parameters[name]][key] = value.clone().to(parameters[name].device)

    def agree(self, flag: bool) -> bool:
        return flag


def resolve_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises `BackendError` for a device that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise BackendError("unknown device", got=repr(name), expected="auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise BackendError(
            f"the device {name} is not here",
            got=f"{torch.cuda.device_count()} CUDA devices",
            expected=name,
            remedy="use engine.device=auto",
        )
    return device
