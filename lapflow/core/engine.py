"""Contract: how a training step runs on one or many processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lapflow.core.component import Component
from lapflow.core.errors import LapflowError

Result = TypeVar("Result")


class Engine(Component):
    """Owns the wrapped model, the optimizer and the processes.

    Constructing one only says where and in what precision to compute, which is all that sampling asks;
    `start` joins the other processes, `prepare` takes the model. Methods marked *collective* are called by
    every process at the same point.

    Whatever the engine, a parameter that took no part in a step sees a **zero gradient** in it: AdamW then
    still decays its moments and its weight. The active scales change, so every step meets this case.

    The weights are always float32. Each process holds them as `shards`: whole tensors, or its part of each.
    `gather` makes whole ones, so that what is saved does not depend on the engine or the number of processes.
    """

    kind = "engine"
    rank: int
    world_size: int
    device: torch.device
    waits: float = float("inf")
    """Seconds for which a process waits for the others."""

    @property
    def same_segments(self) -> bool:
        """Whether all processes must train the same segments in a step, to join in all communication."""
        return False

    @property
    def cuts_weights(self) -> bool:
        """Whether the optimizer steps on parts of weights, so that it must be elementwise."""
        return False

    # ------------------------------------------------------------------ processes

    @abstractmethod
    def start(self) -> None:
        """Join the other processes. Collective. Raises `BackendError` where it cannot, or lacks a package."""

    @abstractmethod
    def stop(self) -> None:
        """Leave the other processes."""

    @abstractmethod
    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag: true on every process if it is true on any. Collective."""

    @abstractmethod
    def exchange(self, value: Any) -> list[Any]:
        """The plain values (numbers, text, lists, dicts) of all processes, by rank. Collective."""

    def first(self, action: Callable[[], Result]) -> Result | None:
        """Do `action` on rank 0 alone: its result there, None elsewhere; it fails everywhere if it fails.
        Collective."""
        return self.jointly(action if self.rank == 0 else lambda: None)

    def jointly(self, action: Callable[[], Result]) -> Result:
        """Do `action` on every process; where it fails on any, it fails on all: no one waits for one that has
        left. The process that failed says why. Collective."""
        try:
            result, problem = action(), None
        except Exception as error:
            problem = error
        known = problem is None or isinstance(problem, LapflowError)
        told = problem if known else LapflowError(f"{type(problem).__name__}: {problem}")
        found = self.exchange(told)
        failed = [rank for rank, error in enumerate(found) if error is not None]
        if problem is not None:
            problem.said = self.rank != failed[0]  # type: ignore[attr-defined]
            raise problem
        if failed:
            found[failed[0]].said = True
            raise found[failed[0]]
        return result

    def everywhere(self, error: LapflowError) -> LapflowError:
        """An error that every process raises, and the first one says."""
        error.said = self.rank > 0
        return error

    def explain(self, error: RuntimeError) -> LapflowError | None:
        """What an error of a collective call says to the user, if another process caused it; else None."""
        return None

    # ------------------------------------------------------------------ steps

    @abstractmethod
    def prepare(
        self,
        model: nn.Module,
        optimizer: Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer],
        *,
        grad_clip_norm: float | None = None,
        units: Sequence[nn.Module] = (),
    ) -> nn.Module:
        """Move and wrap `model`, make the optimizer over its parameters by name, and return what training
        calls once for each backward pass: `model` (a `TrainingStep`), or a wrapper with its arguments and
        results. `grad_clip_norm` bounds the gradient's norm; `units` are parts of the model that may be
        sharded each as a whole. The model has its final weights, the same in every process. Collective."""

    @abstractmethod
    def autocast(self) -> AbstractContextManager[object]:
        """The context in which a network is evaluated in the engine's precision, and a loss computed."""

    def accumulating(self) -> AbstractContextManager[object]:
        """The context of all micro-batches of a step but the last: gradients need not be exchanged."""
        return nullcontext()

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, this process's mean; a step takes the processes' mean. Collective."""

    @abstractmethod
    def step(self, learning_rate: float) -> float:
        """Clip the gradients' norm, take an optimizer step, clear the gradients; returns the norm of the
        whole gradient before clipping, the same on all processes. With a norm that is not finite, on
        whichever process it began, no process updates anything. Collective."""

    # ------------------------------------------------------------------ what is kept

    @abstractmethod
    def shards(self) -> dict[str, Tensor]:
        """This process's part of each entry of the model's state dict, as it stands (not a copy)."""

    @abstractmethod
    def gather(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole CPU tensors of which `shards` (laid out as those of the model: all of them or some) are
        parts; on rank 0, nothing elsewhere. Collective."""

    @abstractmethod
    def scatter(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's part of whole tensors, on its device: new tensors laid out as `shards`."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The optimizer's state as whole CPU tensors `PARAMETER/KEY`; on rank 0, else nothing. Collective."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` of any engine gave, after `prepare`. Collective. Raises `CheckpointError`
        for the state of another model."""
