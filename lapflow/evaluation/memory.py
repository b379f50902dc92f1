"""What a process needs in memory to train a composition, and to sample it. Nothing of that size is allocated.

Weights, gradients, moments and average are counted from the parameters, as the engine says that it holds
them. Activations are counted by running the network, forward and backward, on tensors that have a shape and
no storage (torch's FakeTensor, as a CPU would compute them) and adding up what is alive: what the backward
pass needs, the loss, the gradients of activations, bf16 copies of weights under autocast. So there is no
formula that a changed network would leave behind. Left out: the batch itself and what the flow makes of it,
the codec, what kernels take for themselves, and torch.compile, which keeps less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lapflow.analysis.flops import seen
from lapflow.backends.engines.held import ITEM
from lapflow.config.building import (
    build_codec,
    build_dataset,
    build_engine,
    build_flow,
    build_guidance,
    build_model,
    require_processes,
    working_dtype,
)
from lapflow.config.schema import Config
from lapflow.core.backbone import Backbone, Condition
from lapflow.core.engine import Held
from lapflow.core.errors import ConfigError
from lapflow.core.intervals import Segment
from lapflow.core.live_bytes import LiveBytes
from lapflow.flows.flow import Flow
from lapflow.training.activation_checkpointing import checkpoint_activations
from lapflow.util.random import keyed_generator

Recompute = bool | Literal["cheap"]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
STEPS = 100
"""Training steps whose draws are looked at for the heaviest one."""


Call = tuple[dict[int, Tensor], Tensor, Condition]


@dataclass(frozen=True)
class Activations:
    """The most that a training step of `share` images needs beside what is held, or an evaluation of `drawn`
    images in sampling (twice as many under guidance), in bytes; `own` is what the config names."""

    precision: str
    recompute: Recompute
    bytes: int
    own: bool


@dataclass(frozen=True)
class Memory:
    """One of `processes` that train `batch` images a step, each its `share`; and sampling `drawn` images at
    once on one process.

    `held` while training, by name (None: the engine does not say). `training` and `sampling` are None, with
    the `reason`, for a network that cannot be followed without its numbers.
    """

    processes: int
    batch: int
    share: int
    drawn: int
    guided: bool
    weights: int
    held: Mapping[str, Held] | None
    training: tuple[Activations, ...] | None
    sampling: tuple[Activations, ...] | None
    reason: str | None = None

    @property
    def kept(self) -> int | None:
        """What is held on the device."""
        return None if self.held is None else sum(h.bytes for h in self.held.values() if not h.offloaded)

    @property
    def step(self) -> int | None:
        """What the config's training needs on the device: kept and activations, as if both were largest at
        once."""
        own = [a.bytes for a in self.training or () if a.own]
        return None if self.kept is None or not own else self.kept + own[0]

    def document(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "kept": self.kept, "step": self.step}


def memory(config: Config, *, batch: int | None = None, processes: int = 1) -> Memory:
    """The estimate for `processes` of the config's engine, with `batch` images in a training step, over all
    processes, and as many drawn at once (default: the config's two numbers). The engine's own package need
    not be installed.

    Raises `ConfigError` for numbers below 1, and for a batch that does not divide among the processes.
    """
    for what, number in (("batch", batch), ("number of processes", processes)):
        if number is not None and number < 1:
            raise ConfigError(f"the {what} is too small", got=number, expected="1 or more")
    config = config.model_copy(
        update={"attention": {"name": "sdpa"}}
    )  # what runs everywhere; fused kernels keep the same
    images, drawn = batch or config.training.batch_size, batch or config.sampling.batch_size
    flow, dataset, engine = build_flow(config), build_dataset(config), build_engine(config, "cpu")
    require_processes(config, flow, engine, images, processes)
    shape, share = build_codec(config).latent_shape(dataset.shape), images // processes
    guided = dataset.num_classes > 0 and not build_guidance(config).off
    with engine.autocast():
        precision = next(
            name for name, dtype in PRECISIONS.items() if dtype == working_dtype(torch.device("cpu"))
        )
    with FakeTensorMode() as fake:
        model = build_model(config, flow, shape, dataset.num_classes)
    held = engine.held(model, model.units(), processes)
    if held is not None and config.training.ema_decay is None:
        held = {name: h for name, h in held.items() if name != "average"}
    training = sampling = reason = None
    work = [sum(model.multiply_adds(seen(flow, segment)).values()) for segment in flow.segments]
    last = max(flow.segments, key=lambda segment: work[segment.index])
    trained = _heaviest(flow, work, share, config.seed)
    try:
        with fake:
            at = {
                p: _evaluation(model, _call(model, flow, shape, last, drawn * (1 + guided)), dtype)
                for p, dtype in PRECISIONS.items()
            }
            sampling = tuple(Activations(p, False, size, p == precision) for p, size in at.items())
            steps = _steps(model, [_call(model, flow, shape, segment, count) for segment, count in trained])
            own = precision, config.training.activation_checkpointing
            training = tuple(
                Activations(p, again, size, (p, again) == own) for (p, again), size in steps.items()
            )
    except RuntimeError as error:  # what FakeTensor raises where an operation needs the numbers
        reason = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
    weights = ITEM * sum(p.numel() for p in model.parameters())
    return Memory(processes, images, share, drawn, guided, weights, held, training, sampling, reason)


def _heaviest(flow: Flow, work: Sequence[int], batch: int, seed: int) -> list[tuple[Segment, int]]:
    """The segments that train together, each with its number of samples, in the heaviest of a run's first
    steps."""
    steps = []
    for step in range(STEPS):
        draws = flow.training_draws(
            batch,
            keyed_generator("memory", step),
            keyed_generator(seed, "stage", step),
            dtype=torch.float32,
            device="cpu",
        )
        steps.append([(d.segment, batch if d.index is None else len(d.index)) for d in draws])
    return max(steps, key=lambda calls: sum(count * work[segment.index] for segment, count in calls))


def _call(model: Backbone, flow: Flow, shape: tuple[int, int, int], segment: Segment, count: int) -> Call:
    """What the network is given of `count` samples in a segment."""
    views = flow.network_bands(shape)
    state = {k: torch.zeros(count, *views[k].shape) for k in seen(flow, segment)}
    beside = {
        k: torch.zeros(count, views[k].condition, *views[k].shape[1:]) for k in state if views[k].condition
    }
    labels = torch.zeros(count, dtype=torch.int64) if model.num_classes else None
    return (
        state,
        torch.zeros(count),
        Condition(labels, beside or None, torch.zeros(count) if beside else None),
    )


def _evaluation(model: Backbone, call: Call, dtype: torch.dtype) -> int:
    """The most that an evaluation without gradients needs, in bytes."""
    with torch.inference_mode(), LiveBytes() as live, _autocast(dtype):
        model(*call)
    return live.peak


def _steps(model: Backbone, calls: Sequence[Call]) -> dict[tuple[str, Recompute], int]:
    """The most that the forward and backward pass of these calls need, in bytes, by precision and
    `recompute`, as far as the network can."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p)  # gradients are counted apart, with what the engine holds
    found: dict[tuple[str, Recompute], int] = {
        (name, False): _step(model, calls, dtype) for name, dtype in PRECISIONS.items()
    }
    ways: tuple[tuple[Literal[True, "cheap"], bool], ...] = (
        ("cheap", model.remakes and bool(model.units())),
        (True, bool(model.units())),
    )
    for how in (how for how, able in ways if able):
        checkpoint_activations(model, how)
        found |= {(name, how): _step(model, calls, dtype) for name, dtype in PRECISIONS.items()}
        for unit in model.units():
            del unit.forward  # its class's again
    return found


def _step(model: Backbone, calls: Sequence[Call], dtype: torch.dtype) -> int:
    with LiveBytes() as live:
        with _autocast(dtype):
            outputs = [model(*call) for call in calls]
        losses = [
            x.float().square().mean() for heads in outputs for head in heads.values() for x in head.values()
        ]
        torch.stack(losses).sum().backward()
    return live.peak


def _autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
