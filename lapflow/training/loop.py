"""The training loop, top to bottom.

Every random number is a pure function of the config's seed and of what is counted: a sample's noise, time, label drop
and flip of its position in the consumed stream, a batch's segment of the step. So a resumed run is the uninterrupted
one, bit for bit on CPU, and no generator's state needs saving.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lapflow.config.building import Composition, build
from lapflow.config.loading import difference, resolved
from lapflow.config.schema import Config
from lapflow.core.errors import CheckpointError, LapflowError
from lapflow.core.random import keyed_generator, rand
from lapflow.data.loader import Batch, Batches
from lapflow.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lapflow.training.ema import EMA
from lapflow.training.events import EventLog, Watcher, summary_writer
from lapflow.training.run_folder import RunFolder, environment
from lapflow.training.schedule import learning_rate


class TrainingError(LapflowError):
    """A run that cannot go on: its loss or gradient is not finite."""


def train(config: Config, out: Path, watch: Watcher = lambda event: None) -> Path:
    """Train `config` in the folder `out`, continuing the run that is there; returns `out`.

    `watch` receives events: start or resume, train (every `log_every` steps), checkpoint, done.
    """
    # ---- compose: everything that can be wrong with the config is wrong here, before anything is written
    parts = build(config)
    settings, seed = config.training, config.seed
    engine = parts.engine
    parts.require()
    if settings.tensorboard:
        summary_writer()

    run = RunFolder(out, config)
    try:
        log = EventLog(out, watch, settings.tensorboard)
        # ---- engine, optimizer, average
        model = engine.prepare(parts.model, _optimizer(config))
        ema = None if settings.ema_decay is None else EMA(engine.weights(), settings.ema_decay)
        step, consumed = 0, 0

        # ---- continue where the last checkpoint stands
        if run.latest is not None:
            saved = load_checkpoint(run.latest, needs=("model", "optimizer", "state", "config", "classes", *(["ema"] if ema else [])))
            _same_run(saved, config, parts.dataset.class_names, run.latest)
            state = saved.documents["state"]
            engine.load(saved.tensors["model"], saved.tensors["optimizer"])
            if ema is not None:
                ema.load(saved.tensors["ema"], state["ema_updates"])
            step, consumed = state["step"], state["consumed"]
        log({"event": "resume" if step else "start", "step": step, "steps": settings.steps, **parts.describe()})

        # ---- steps
        batches = iter(
            Batches(
                parts.dataset,
                "train",
                seed=seed,
                batch_size=settings.batch_size,
                consumed=consumed,
                flip=settings.flip,
                rank=engine.rank,
                world_size=engine.world_size,
                workers=settings.workers,
            )
        )
        window = _Window()
        while step < settings.steps:
            stage = keyed_generator(seed, "stage", step)
            for _ in range(settings.accumulation):
                batch = next(batches)
                loss, named = _loss(parts, model, batch, stage, seed, settings.label_drop)
                engine.backward(loss / settings.accumulation)
                window.add(named, len(batch.positions))
                consumed += settings.batch_size
            rate = _rate(config, step)
            norm = engine.step(rate, settings.clip)
            if engine.agree(not math.isfinite(norm)):
                raise TrainingError(
                    f"the gradient is not finite at step {step + 1}",
                    got=f"norm {norm}, images consumed {consumed}",
                    expected="finite gradients",
                    remedy="lower the learning rate, clip, or use fp32" + (f"; {run.latest} is intact" if run.latest else ""),
                )
            step += 1
            if ema is not None:
                ema.update(engine.weights())
            if step % settings.log_every == 0 or step == settings.steps:
                log({"event": "train", "step": step, **window.close(), "learning_rate": rate, "gradient_norm": norm})

            # ---- save
            if step % settings.checkpoint_every == 0 or step == settings.steps:
                counts = {"step": step, "consumed": consumed, "ema_updates": ema.updates if ema else 0}
                path = _save(parts, run, counts, ema)
                log({"event": "checkpoint", "step": step, "path": str(path.relative_to(out))})
        log({"event": "done", "step": step})
        log.close()
    finally:
        run.close()
    return out


def _same_run(saved: Checkpoint, config: Config, classes: tuple[str, ...], path: Path) -> None:
    """Raises `CheckpointError` unless a checkpoint is of this config and these classes: the data may have changed meanwhile."""
    if changes := difference(saved.documents["config"], resolved(config)):
        raise CheckpointError(
            f"the checkpoint {path} is of another run", got="; ".join(changes), expected="a checkpoint of this run's config"
        )
    if saved.documents["classes"] != list(classes):
        raise CheckpointError(
            f"the data's classes are not those that {path} was trained on",
            got=", ".join(classes) or "no classes",
            expected=", ".join(saved.documents["classes"]) or "no classes",
            remedy="bring the data back as it was, or train in a new folder",
        )


def _save(parts: Composition, run: RunFolder, counts: dict[str, int], ema: EMA | None) -> Path:
    """A checkpoint of all that resuming and sampling need; its path."""
    engine, config = parts.engine, parts.config
    tensors = {"model": engine.weights(), "optimizer": engine.state(), **({"ema": ema.shadow} if ema else {})}
    documents = {
        "state": counts,
        "config": resolved(config),
        "environment": environment(config),
        "classes": list(parts.dataset.class_names),
        "shape": list(parts.dataset.shape),
    }
    return save_checkpoint(run.checkpoints, counts["step"], Checkpoint(tensors, documents), config.training.keep_checkpoints)


def _loss(
    parts: Composition, model: nn.Module, batch: Batch, stage: torch.Generator, seed: int, label_drop: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch, and its named parts (detached)."""
    engine, flow = parts.engine, parts.flow
    generators = [keyed_generator(seed, "sample", position) for position in batch.positions]
    images = batch.images.to(engine.device, non_blocking=True)
    with torch.no_grad():
        x = parts.encode(images, generators)
    labels = None
    if parts.num_classes:
        dropped = rand((len(generators),), generators, dtype=torch.float32, device="cpu") < label_drop
        labels = torch.where(dropped, parts.num_classes, batch.labels).to(engine.device, non_blocking=True)
    total = torch.zeros((), device=engine.device)
    named: dict[str, Tensor] = {}
    for point in flow.training_points(x, generators, stage):
        with engine.autocast():
            heads = model(point.state, point.t, point.condition(labels))
            losses = flow.objective(heads, point)
        for name, value in losses.items():
            total = total + value * point.fraction
            named[name] = named.get(name, torch.zeros_like(total)) + value.detach() * point.fraction
    return total, named


@dataclass
class _Window:
    """Means of the named losses since the last log line; a name counts the batches it occurred in."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    images: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, named: dict[str, Tensor], images: int) -> None:
        self.images += images
        for name, value in named.items():
            self.sums[name] = self.sums.get(name, 0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def close(self) -> dict[str, float]:
        means = {f"loss/{name}": float(total) / self.counts[name] for name, total in sorted(self.sums.items())}
        seconds = time.perf_counter() - self.since
        row = {"loss": sum(means.values()), **means, "seconds": seconds, "images_per_second": self.images / seconds}
        self.sums, self.counts, self.images, self.since = {}, {}, 0, time.perf_counter()
        return row


def _optimizer(config: Config) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    settings = config.training
    return lambda parameters: torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(settings.betas[0], settings.betas[1]), weight_decay=settings.weight_decay, fused=True
    )


def _rate(config: Config, step: int) -> float:
    s = config.training
    return learning_rate(step, s.steps, peak=s.learning_rate, warmup=s.warmup_steps, decay=s.decay, final=s.final_learning_rate)
