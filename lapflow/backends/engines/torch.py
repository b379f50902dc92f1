"""The torch engine: one process, DDP, or FSDP2."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lapflow.backends.engines.processes import DeviceOption, PrecisionOption, ProcessEngine, TimeoutOption


class TorchEngine(ProcessEngine):
    """Plain PyTorch. On several processes `parallel` says how they share the work:

    - `ddp`: each holds the whole model and optimizer; gradients are averaged.
    - `fsdp2`: each holds its part of every weight and moment (`fully_shard` on each unit of the network);
      weights are gathered, in float32, unit by unit when they are needed.
    """

    def __init__(
        self,
        *,
        device: DeviceOption = "auto",
        precision: PrecisionOption = "fp32",
        compile: Annotated[
            bool, Field(description="torch.compile the network, one graph per set of active scales")
        ] = False,
        parallel: Annotated[
            Literal["ddp", "fsdp2"],
            Field(description="of several processes: ddp keeps whole weights in each, fsdp2 shards them"),
        ] = "ddp",
        timeout: TimeoutOption = 1800.0,
    ) -> None:
        super().__init__(device, precision, timeout)
        self.compile, self.sharded = compile, parallel == "fsdp2"

    @property
    def same_segments(self) -> bool:
        return self.sharded

    @property
    def cuts_weights(self) -> bool:
        return self.sharded

    def start(self) -> None:
        if self.sharded or self.world_size > 1:
            self.join()

    def prepare(
        self,
        model: nn.Module,
        optimizer: Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer],
        *,
        grad_clip_norm: float | None = None,
        units: Sequence[nn.Module] = (),
    ) -> nn.Module:
        self.model, self.grad_clip_norm = model.to(self.device), grad_clip_norm
        self.entries = {name: x.shape for name, x in model.state_dict().items()}
        if self.compile:
            self._compile(units)
        if self.sharded:
            self._shard(model, units)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = optimizer(self.parameters)
        self.ddp = None
        if self.world_size > 1 and not self.sharded:
            self.ddp = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        return self.ddp or model

    def _compile(self, units: Sequence[nn.Module]) -> None:
        if not self.sharded:
            self.model.compile(fullgraph=True)
            return
        # FSDP2's hooks stand around the units, so the graphs are those of the units' inside.
        for unit in units:
            unit.forward = torch.compile(unit.forward, fullgraph=True)

    def _shard(self, model: nn.Module, units: Sequence[nn.Module]) -> None:
        from torch.distributed.fsdp import fully_shard

        # Heads are views of a layer's output; nothing here changes one in place, which torch warns of.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        mesh = dist.init_device_mesh(self.device.type, (self.world_size,))
        for unit in units:
            fully_shard(unit, mesh=mesh)
        fully_shard(model, mesh=mesh)

    def accumulating(self) -> AbstractContextManager[object]:
        return nullcontext() if self.ddp is None else self.ddp.no_sync()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> float:
        # The zero gradient of an inactive scale (see the contract). It is made here, and gradients are let go
        # of below, so that the backward pass need not add to a zero.
        parameters = list(self.parameters.values())
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        total = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = _whole(total).item()
        if norm == norm and norm != float("inf"):
            if self.grad_clip_norm is not None and norm > self.grad_clip_norm:
                whole = torch.tensor(norm, device=self.device)
                torch.nn.utils.clip_grads_with_norm_(parameters, self.grad_clip_norm, whole)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def shards(self) -> dict[str, Tensor]:
        held = self.held().items()
        return {name: (x.to_local() if isinstance(x, DTensor) else x).detach() for name, x in held}

    def gather(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        held = self.held()
        return self.on_first(
            (name, _whole(_like(shards[name], held[name]))) for name in self.entries if name in shards
        )

    def scatter(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        held = self.held()
        return {name: _part(x.to(self.device), held[name]) for name, x in whole.items()}

    def state(self) -> dict[str, Tensor]:
        return self.on_first(
            (f"{name}/{key}", _whole(value))
            for name, p in self.parameters.items()
            for key, value in sorted(self.optimizer.state.get(p, {}).items())
        )

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for (name, key), value in self.by_parameter(state).items():
            p = self.parameters[name]
            # The fused AdamW keeps its step counts, like its moments, beside the parameter.
            whole = value.to(p.device)
            self.optimizer.state[p][key] = (
                _like(_part(whole, p), p) if whole.shape == p.shape else whole.clone()
            )


def _whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _like(local: Tensor, entry: Tensor) -> Tensor:
    """A local part as the distributed tensor that `entry` is; itself where the entry is a plain tensor."""
    if not isinstance(entry, DTensor):
        return local
    return DTensor.from_local(
        local, entry.device_mesh, entry.placements, run_check=False, shape=entry.shape, stride=entry.stride()
    )


def _part(whole: Tensor, entry: Tensor) -> Tensor:
    """This process's part of a whole tensor laid out as `entry`, a new tensor."""
    if not isinstance(entry, DTensor):
        return whole.clone()
    return (
        distribute_tensor(whole, entry.device_mesh, entry.placements, src_data_rank=None).to_local().clone()
    )
