"""The processes of a training run: who they are (torchrun's environment), and how they agree."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from lapflow.core.engine import Engine
from lapflow.core.errors import BackendError, CheckpointError, LapflowError
from lapflow.util.autocast import autocast_in

DeviceOption = Annotated[
    str, Field(description="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
]
PrecisionOption = Annotated[
    Literal["fp32", "bf16"], Field(description="fp32, or bf16 autocast over fp32 weights")
]
TimeoutOption = Annotated[
    float,
    Field(
        gt=0,
        description="seconds that a process waits for the others before the run ends; saving may take long",
    ),
]


class ProcessEngine(Engine):
    """Where to compute, in what precision, and among which processes: what all our engines share.

    Control messages (flags, words) go over gloo on the CPU, so that they do not wait for a GPU. `prepare`
    sets the model, the shapes of its state dict's `entries`, and its trained `parameters` by name.
    """

    model: nn.Module
    entries: Mapping[str, torch.Size]
    parameters: Mapping[str, nn.Parameter]

    def __init__(self, device: str, precision: str, timeout: float) -> None:
        self.rank, self.world_size, local_rank = this_process()
        self.device = resolve_device(device, local_rank)
        self.made_group = False
        self.precision, self.waits = precision, timeout

    def join(self) -> None:
        """Make the process group, of one process too, unless there is one. Raises `BackendError`."""
        if dist.is_initialized():
            return
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.made_group = True
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        try:
            if self.world_size == 1:
                dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
            else:
                dist.init_process_group(backend, timeout=timedelta(seconds=self.waits))
        except (ValueError, RuntimeError) as error:
            raise BackendError(
                "the processes cannot find each other",
                got=f"rank {self.rank} of {self.world_size}: {error}",
                expected="every process started by torchrun or DeepSpeed's launcher, with the same "
                "MASTER_ADDR and MASTER_PORT",
                remedy="on several machines, name the network interface: GLOO_SOCKET_IFNAME, "
                "NCCL_SOCKET_IFNAME",
            ) from error

    def stop(self) -> None:
        if self.made_group:
            self.made_group = False
            # Gloo's thread takes the interpreter's lock to let go of the last message, and the group's
            # destructor joins that thread with the lock held (torch 2.13): let it finish first.
            time.sleep(0.2)
            dist.destroy_process_group()

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        if self.world_size == 1:
            return flags
        marks = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(marks, op=dist.ReduceOp.MAX)
        return tuple(bool(mark) for mark in marks)

    def exchange(self, value: Any) -> list[Any]:
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    def explain(self, error: RuntimeError) -> LapflowError | None:
        if self.world_size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            return None
        return BackendError(
            "another process of the run has ended, or does not answer",
            got=str(error).splitlines()[0],
            expected=f"{self.world_size} processes within {self.waits:.0f} s (engine.timeout)",
            remedy="see what that process or the launcher says; the same command goes on from the last "
            "checkpoint",
        )

    def held(self) -> dict[str, Tensor]:
        """The tensors of the model's state dict themselves, under their names from before wrapping."""
        found = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return {name: found[name] for name in self.entries}

    def on_first(self, pairs: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors on the CPU, kept on rank 0 alone; one at a time, since a whole one may be large. Making
        them is collective: the order must be the same on all processes, which a dictionary read from a
        checkpoint does not promise."""
        return {name: x.detach().cpu() for name, x in pairs if self.rank == 0}

    def by_parameter(self, state: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        """{PARAMETER/KEY: x} as {(parameter, key): x}. Raises `CheckpointError` for a parameter of another
        model."""
        found = {}
        for full, value in state.items():
            name, key = full.rsplit("/", 1)
            if name not in self.parameters:
                raise CheckpointError(
                    "the optimizer state is of another model",
                    got=name,
                    expected="the names of this model's parameters",
                )
            found[name, key] = value
        return found

    def autocast(self) -> AbstractContextManager[object]:
        return autocast_in(self.device, torch.bfloat16 if self.precision == "bf16" else None)


def this_process() -> tuple[int, int, int]:
    """(rank, number of processes, rank on this machine), from RANK, WORLD_SIZE and LOCAL_RANK as torchrun and
    DeepSpeed's launcher set them; alone without them. Raises `BackendError` where they make no sense."""
    rank, world_size, local_rank = _number("RANK", 0), _number("WORLD_SIZE", 1), _number("LOCAL_RANK", 0)
    if not 0 <= rank < world_size:
        raise BackendError(
            "the environment does not say which process this is",
            got=f"RANK={rank}, WORLD_SIZE={world_size}",
            expected="0 <= RANK < WORLD_SIZE",
            remedy="launch with torchrun, or unset both",
        )
    return rank, world_size, local_rank


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is the GPU where there is one; of several processes on a machine each takes the GPU of its local
    rank. Raises `BackendError` for a device that is not here."""
    if name in ("auto", "cuda") and torch.cuda.is_available():
        # A launcher may show each process its own GPU only, which then is the first.
        name = f"cuda:{local_rank if torch.cuda.device_count() > 1 else 0}"
    elif name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise BackendError("unknown device", got=repr(name), expected="auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and local_rank and device.index != local_rank and torch.cuda.device_count() > 1:
        raise BackendError(
            "several processes would share a GPU",
            got=f"device {name} at local rank {local_rank}",
            expected="engine.device=auto",
        )
    if device.type == "cuda" and not (
        torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise BackendError(
            f"the device {name} is not here",
            got=f"{torch.cuda.device_count()} CUDA devices",
            expected=name,
            remedy="use engine.device=auto",
        )
    return device


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.lstrip("-").isdecimal():
        raise BackendError(
            "the environment does not say which process this is",
            got=f"{variable}={text}",
            expected="a whole number",
        )
    return int(text)
