"""One optimizer step: the module that every engine wraps, its losses, the learning rate, the average."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from lapflow.config.building import Composition
from lapflow.config.schema import Config, Decay
from lapflow.core.backbone import Backbone
from lapflow.core.objective import Objective
from lapflow.data.loader import Batch
from lapflow.flows.flow import TrainingPoint
from lapflow.util.random import keyed_generator, rand
from lapflow.util.transfer import upload

MODEL = "model"
OBJECTIVE = "objective"
"""The groups of tensors in a checkpoint."""

Groups = dict[str, dict[str, Tensor]]
Forward = Callable[[Sequence[TrainingPoint]], Any]
"""A `TrainingStep`, or what an engine made of it."""


class TrainingStep(nn.Module):
    """[training pair, ...] -> [named losses, ...]: everything of a micro-batch in one forward.

    What wraps a network to reduce its gradients (DDP, FSDP2, ZeRO) hooks one forward for each backward, and a
    step calls the network once or more in each of its segments. `objective` is one that was built.

    In a checkpoint the network's tensors stand under its own names in the group `model`, whatever the
    objective, so that sampling reads them alike; the objective's are a group of their own.
    """

    def __init__(self, network: Backbone, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective, self.losses = network, objective.module, objective
        flow = objective.flow
        # Where each sample draws its segment, a segment's number of samples changes from step to step.
        self.batch_varies = not flow.intervals.common and len(flow.segments) > 1
        self._prefixes = {MODEL: "network."}
        if self.objective is not None:
            self._prefixes[OBJECTIVE] = "objective."

    def forward(self, points: Sequence[TrainingPoint]) -> list[Mapping[str, Tensor]]:
        if self.batch_varies:
            for point in points:
                _mark_batch_dynamic(point)
        return [self.losses(self.network, point) for point in points]

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile the network; the objective's branches are its own."""
        self.network.compile(*arguments, **options)

    @property
    def parts(self) -> tuple[str, ...]:
        """The groups in which a checkpoint holds what is trained."""
        return tuple(self._prefixes)

    def groups(self, tensors: Mapping[str, Tensor]) -> Groups:
        """Tensors under the names of this module -> the groups of a checkpoint."""
        return {
            group: {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
            for group, prefix in self._prefixes.items()
        }

    def named(self, groups: Groups) -> dict[str, Tensor]:
        """Groups of a checkpoint -> tensors under the names of this module."""
        return {self._prefixes[group] + name: x for group in groups for name, x in groups[group].items()}

    def averaged(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the tensors of which an average is kept: the network's."""
        return {name: x for name, x in tensors.items() if name.startswith(self._prefixes[MODEL])}

    def load(self, groups: Groups) -> None:
        """Take the weights of a checkpoint. Call it before the engine has the module."""
        self.load_state_dict(self.named({group: groups[group] for group in self.parts}))


def _mark_batch_dynamic(point: TrainingPoint) -> None:
    """Tell torch.compile at once that the number of samples varies: it would find out by compiling twice."""
    # A second, which the first step of an optimizer takes in any case.
    from torch._dynamo import maybe_mark_dynamic

    times = (point.t,) if isinstance(point.t, Tensor) else point.t.values()
    for x in (*point.state.values(), *times, *point.condition.tensors()):
        maybe_mark_dynamic(x, 0)


def checkpoint_activations(model: Backbone) -> None:
    """Activation checkpointing (Chen et al. 2016), memory for time: each unit of the network keeps its inputs
    alone for the backward pass, which computes the rest anew."""
    for unit in model.units():
        # the networks draw no random numbers, so their state need not be kept for the second pass
        unit.forward = functools.partial(
            checkpoint, unit.forward, use_reentrant=False, preserve_rng_state=False
        )


def take_step(
    parts: Composition, model: Forward, batches: list[Batch], number: int
) -> tuple[float, list[tuple[Tensor, dict[str, Tensor]]]]:
    """The optimizer's step `number` -> the gradient's norm, and each batch's loss with its named parts."""
    engine, accumulation = parts.engine, parts.config.training.accumulation
    stage = keyed_generator(parts.config.seed, "stage", number)
    taken: list[tuple[Tensor, dict[str, Tensor]]] = []
    for i, batch in enumerate(batches):
        with engine.accumulating() if i + 1 < len(batches) else nullcontext():
            loss, named = _loss(parts, model, batch, stage)
            # A loss that is not finite makes the gradient NaN: no process updates anything, and none asks.
            scale = torch.where(loss.detach().isfinite(), 1.0, float("nan"))
            engine.backward(loss * scale / accumulation)
        taken.append((loss.detach(), named))
    return engine.step(rate_of(parts.config, number)), taken


def _loss(
    parts: Composition, model: Forward, batch: Batch, stage: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch, and its named parts (detached)."""
    engine, flow, config = parts.engine, parts.flow, parts.config
    generators = [keyed_generator(config.seed, "sample", position) for position in batch.positions]
    images = upload(batch.images, engine.device)
    with torch.no_grad():
        x = parts.encode(images, generators)
    given = parts.conditioner(batch.annotations)
    if given.droppable:
        draws = rand((len(generators),), generators, dtype=torch.float32, device="cpu")
        given = given.drop(draws < config.training.condition_dropout).to(engine.device)
    total = torch.zeros((), device=engine.device)
    named: dict[str, Tensor] = {}
    points = flow.training_points(x, generators, stage, given, second_time=parts.objective.second_time)
    with engine.autocast():
        losses = model(points)
    for point, parted in zip(points, losses, strict=True):
        for name, value in parted.items():
            total = total + value * point.fraction
            named[name] = named.get(name, torch.zeros_like(total)) + value.detach() * point.fraction
    return total, named


def rate_of(config: Config, step: int) -> float:
    """The learning rate of a step."""
    s = config.training
    return learning_rate(
        step, s.steps, peak=s.learning_rate, warmup=s.warmup_steps, decay=s.decay, final=s.final_learning_rate
    )


def learning_rate(step: int, steps: int, *, peak: float, warmup: int, decay: Decay, final: float) -> float:
    """The rate of step `step`, from 0, of `steps`: linear warm-up to `peak`, then decay to `final * peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay == "constant":
        return peak
    progress = (step - warmup) / max(1, steps - warmup)
    shape = 1 - progress if decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final + (1 - final) * shape)


class EMA:
    """Exponential moving average of the weights, in float32.

    shadow <- d shadow + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)) at update n (the warm-up of
    Karras et al. 2022's and timm's averages): early averages forget the initial weights fast."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.shadow = {
            name: w.detach().clone().float() if w.is_floating_point() else w.detach().clone()
            for name, w in weights.items()
        }

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        floating = [name for name, w in self.shadow.items() if w.is_floating_point()]
        average = get_ema_multi_avg_fn(decay)
        average([self.shadow[n] for n in floating], [weights[n].float() for n in floating], self.updates)

    def load(self, shadow: Mapping[str, Tensor], updates: int) -> None:
        for name, w in shadow.items():
            self.shadow[name].copy_(w)
        self.updates = updates
