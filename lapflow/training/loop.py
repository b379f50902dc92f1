"""The training loop, top to bottom.

Every random number is a pure function of the config's seed and of what is counted: a sample's noise, time,
label drop and flip of its position in the consumed stream, a batch's segment of the step. So a resumed run is
the uninterrupted one, bit for bit on CPU, and no generator's state needs saving.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lapflow.config.building import Composition, build
from lapflow.config.loading import resolved
from lapflow.config.schema import Config
from lapflow.core.engine import Engine
from lapflow.core.errors import CheckpointError, LapflowError
from lapflow.data.loader import Batch, Batches
from lapflow.data.order import place
from lapflow.data.quarantine import QUARANTINE, Quarantine
from lapflow.flows.flow import TrainingPoint
from lapflow.training.activation_checkpointing import checkpoint_activations
from lapflow.training.checkpoint import Checkpoint, load_checkpoint
from lapflow.training.ema import EMA
from lapflow.training.events import EventLog, Log, Silence, Watcher, summary_writer
from lapflow.training.run_folder import RunFolder, other_run
from lapflow.training.saving import save
from lapflow.training.schedule import learning_rate
from lapflow.training.signals import Signals, StoppedError
from lapflow.training.step import MODEL, TrainingStep
from lapflow.util.digest import difference
from lapflow.util.random import keyed_generator, rand
from lapflow.util.transfer import upload


class TrainingError(LapflowError):
    """A run that cannot go on: its loss or gradient is not finite."""


def train(config: Config, out: Path, watch: Watcher = lambda event: None) -> Path:
    """Train `config` in the folder `out`, continuing the run that is there; returns `out`.

    On several processes (see the engines) every one of them calls this. `watch` receives events, on rank 0:
    start or resume, train (every `log_every` steps), checkpoint, done, and what went wrong but did not stop
    the run. Raises `StoppedError` after saving when a signal asked the run to stop.
    """
    parts, module = composed(config)
    with joined(parts.engine):
        run = parts.engine.first(lambda: RunFolder(out, config))
        try:
            with Signals() as signals:
                _train(parts, module, run, out, watch, signals)
        finally:
            if run is not None:
                run.close()
    return out


def composed(config: Config) -> tuple[Composition, TrainingStep]:
    """What a config trains. Everything that can be wrong with it is wrong here, before anything is
    written."""
    parts = build(config)
    parts.require()
    parts.build_objective()
    module = TrainingStep(parts.model, parts.objective)
    if config.training.tensorboard:
        summary_writer()
    return parts, module


@contextmanager
def joined(engine: Engine) -> Iterator[None]:
    """Among the engine's processes; the end of another one is said as such. Collective."""
    engine.start()
    try:
        yield
    except StoppedError:
        engine.stop()
        raise
    except RuntimeError as error:
        if (cause := engine.explain(error)) is not None:
            raise cause from error
        raise
    engine.stop()


def _train(
    parts: Composition,
    module: TrainingStep,
    run: RunFolder | None,
    out: Path,
    watch: Watcher,
    signals: Signals,
) -> None:
    config, settings, engine = parts.config, parts.config.training, parts.engine
    log = EventLog(out, watch, settings.tensorboard) if run is not None else Silence()
    about = parts.describe()  # before an engine takes the weights apart
    model, ema, progress, resumed = restored(parts, module, run)
    changes = {"changes": run.changes} if run is not None and run.changes else {}
    log(
        {
            "event": "resume" if resumed else "start",
            "step": progress.step,
            "steps": settings.steps,
            **about,
            **changes,
        }
    )
    batches = read_batches(parts, progress.consumed)
    quarantine = Quarantine(out / QUARANTINE, parts.dataset.size("train"), settings.bad_images)
    window, kept = _Window(), progress.step

    def read() -> list[Batch]:
        """The micro-batches of a step."""
        found = [next(batches) for _ in range(settings.accumulation)]
        for batch in found:
            if new := quarantine.add(batch.unreadable):
                log({"event": "quarantined", "step": progress.step, "names": new, "total": quarantine.count})
        return found

    def keep() -> None:
        nonlocal kept
        path = save(parts, module, run, asdict(progress), ema, log, signals)
        log({"event": "checkpoint", "step": progress.step, "path": path and str(path.relative_to(out))})
        kept = progress.step

    while progress.step < settings.steps:
        # ---- read; stop, on all processes, if one is asked to or cannot read on
        step, problem = _attempt(read)
        asked, failed = engine.agree(signals.received is not None, problem is not None)
        if asked or failed:
            if progress.step > kept:
                keep()
            _stop(engine, progress, signals, problem, log)

        # ---- step
        rate = rate_of(config, progress.step)
        norm, taken = take_step(parts, model, step, progress.step, rate)
        progress.step += 1
        progress.consumed += settings.batch_size * settings.accumulation
        if math.isfinite(norm):
            window.add([named for _, named in taken])
            if ema is not None:
                ema.update(engine.shards())
                progress.ema_updates = ema.updates
        else:
            _left_out(parts, progress, step, [loss for loss, _ in taken], norm, log, run)
        ends = progress.step == settings.steps
        if progress.step % settings.log_every == 0 or ends:
            means = window.close(engine, settings.batch_size * settings.accumulation)
            finite = norm if math.isfinite(norm) else None
            log(
                {
                    "event": "train",
                    "step": progress.step,
                    **means,
                    "learning_rate": rate,
                    "gradient_norm": finite,
                }
            )

        # ---- save
        if progress.step % settings.checkpoint_every == 0 or ends:
            keep()
    log({"event": "done", "step": progress.step})
    log.close()


def restored(
    parts: Composition, module: TrainingStep, run: RunFolder | None
) -> tuple[nn.Module, EMA | None, Progress, bool]:
    """The module as the engine runs it, the average, how far the run is, and whether it goes on from a
    checkpoint. Collective."""
    settings, engine = parts.config.training, parts.engine
    progress = Progress()
    latest = engine.exchange(run.latest if run is not None else None)[0]
    saved = engine.jointly(lambda: _last_checkpoint(parts, module, latest))
    if saved is None:
        engine.jointly(parts.fit)
    else:
        module.load(saved.tensors)
        progress = Progress(**saved.documents["state"])
    inside = {id(p) for unit in parts.model.units() for p in unit.parameters()}
    hidden = {name for name, p in module.named_parameters() if id(p) in inside}
    model = engine.prepare(
        module,
        lambda parameters: parts.optimizer.build(parameters, hidden, settings.learning_rate),
        grad_clip_norm=settings.grad_clip_norm,
        units=parts.model.units(),
    )
    if settings.activation_checkpointing:
        checkpoint_activations(parts.model)  # around what the engine compiled
    ema = None if settings.ema_decay is None else EMA(module.averaged(engine.shards()), settings.ema_decay)
    if saved is not None:
        engine.restore(saved.tensors["optimizer"])
        if ema is not None:
            ema.load(engine.scatter(module.named({MODEL: saved.tensors["ema"]})), progress.ema_updates)
    return model, ema, progress, saved is not None


def take_step(
    parts: Composition,
    model: Callable[[Sequence[TrainingPoint]], Any],
    batches: list[Batch],
    number: int,
    rate: float,
) -> tuple[float, list[tuple[Tensor, dict[str, Tensor]]]]:
    """The optimizer's step `number` at this learning rate -> the gradient's norm, and each batch's loss with
    its named parts."""
    engine, accumulation = parts.engine, parts.config.training.accumulation
    stage = keyed_generator(parts.config.seed, "stage", number)
    taken: list[tuple[Tensor, dict[str, Tensor]]] = []
    for i, batch in enumerate(batches):
        with engine.accumulating() if i + 1 < len(batches) else nullcontext():
            loss, named = _loss(parts, model, batch, stage)
            engine.backward(_nan_unless_finite(loss) / accumulation)
        taken.append((loss.detach(), named))
    return engine.step(rate), taken


def read_batches(parts: Composition, consumed: int) -> Iterator[Batch]:
    """This process's share of the training batches, from the position `consumed` of the run's data order."""
    settings, engine = parts.config.training, parts.engine
    return iter(
        Batches(
            parts.dataset,
            "train",
            seed=parts.config.seed,
            batch_size=settings.batch_size,
            consumed=consumed,
            flip=settings.flip,
            rank=engine.rank,
            world_size=engine.world_size,
            workers=settings.workers,
        )
    )


def _attempt(read: Callable[[], list[Batch]]) -> tuple[list[Batch], LapflowError | None]:
    try:
        return read(), None
    except LapflowError as error:
        return [], error


def _stop(
    engine: Engine, progress: Progress, signals: Signals, problem: LapflowError | None, log: Log
) -> None:
    """Raise what ends the run here: this process's problem, or what another told. Collective."""
    told = engine.exchange((signals.received, problem))
    if problem is not None:
        log.close()
        raise problem
    if failed := [error for _, error in told if error is not None]:
        failed[0].said = True
        log.close()
        raise failed[0]
    reason = next(name for name, _ in told if name is not None)
    log({"event": "stopped", "step": progress.step, "signal": reason})
    log.close()
    what = f"the run was asked to stop and is saved at step {progress.step}"
    raise engine.everywhere(StoppedError(what, got=reason, remedy="repeat the same command to go on"))


@dataclass
class Progress:
    """How far a run is: optimizer steps, images consumed, updates of the average, steps left out as not
    finite."""

    step: int = 0
    consumed: int = 0
    ema_updates: int = 0
    skipped: int = 0


def _last_checkpoint(parts: Composition, module: TrainingStep, path: Path | None) -> Checkpoint | None:
    if path is None:
        return None
    config = parts.config
    average = ["ema"] if config.training.ema_decay is not None else []
    saved = load_checkpoint(path, needs=(*module.parts, "optimizer", "state", "config", "classes", *average))
    _same_run(saved, parts, path)
    return saved


def _nan_unless_finite(loss: Tensor) -> Tensor:
    """A loss that is not finite makes the gradient NaN, so that no process updates anything, without asking
    the others."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, float("nan"))


def _left_out(
    parts: Composition,
    progress: Progress,
    batches: list[Batch],
    losses: list[Tensor],
    norm: float,
    log: Log,
    run: RunFolder | None,
) -> None:
    """A step whose loss or gradient was not finite, and which updated nothing: logged, counted, or the end.
    Collective."""
    engine, settings = parts.engine, parts.config.training
    size = parts.dataset.size("train")
    mine = [
        {
            "rank": engine.rank,
            "loss": repr(loss.item()),
            "samples": [
                parts.dataset.name("train", place(parts.config.seed, size, position)[1])
                for position in batch.positions
            ],
        }
        for batch, loss in zip(batches, losses, strict=True)
    ]
    told = [row for rows in engine.exchange(mine) for row in rows]
    bad = [row for row in told if not math.isfinite(float(row["loss"]))] or told
    progress.skipped += 1
    log(
        {
            "event": "non_finite",
            "step": progress.step,
            "gradient_norm": repr(norm),
            "skipped": progress.skipped,
            "batches": bad,
        }
    )
    if settings.non_finite == "skip" and progress.skipped <= settings.max_skipped:
        return
    latest = run.latest if run is not None else None
    error = TrainingError(
        f"the loss or the gradient is not finite at step {progress.step}",
        got="; ".join(f"loss {row['loss']} on rank {row['rank']}" for row in bad)
        + f", gradient norm {norm}; samples {', '.join(bad[0]['samples'][:4])}, ... (all in log.jsonl)",
        expected="finite losses and gradients"
        + ("" if settings.non_finite == "stop" else f" but for {settings.max_skipped} steps"),
        remedy="lower the learning rate, set training.grad_clip_norm, use fp32, or set "
        "training.non_finite=skip" + (f"; {latest} is intact" if latest else ""),
    )
    raise engine.everywhere(error)


def _same_run(saved: Checkpoint, parts: Composition, path: Path) -> None:
    """Raises `CheckpointError` unless a checkpoint is of this config, these classes and these frozen
    networks: data and files may have changed meanwhile."""
    config, classes = parts.config, parts.dataset.class_names
    if changes := other_run(difference(saved.documents["config"], resolved(config)), config):
        raise CheckpointError(
            f"the checkpoint {path} is of another run",
            got="; ".join(changes),
            expected="a checkpoint of this run's config",
        )
    if saved.documents["classes"] != list(classes):
        raise CheckpointError(
            f"the data's classes are not those that {path} was trained on",
            got=", ".join(classes) or "no classes",
            expected=", ".join(saved.documents["classes"]) or "no classes",
            remedy="bring the data back as it was, or train in a new folder",
        )
    if changes := difference(saved.documents.get("frozen", {}), parts.frozen):
        raise CheckpointError(
            f"the objective's frozen networks are not those that {path} was trained with",
            got="; ".join(changes),
            expected="weights of the same SHA-256",
            remedy="bring them back as they were, or train in a new folder",
        )


def _loss(
    parts: Composition,
    model: Callable[[Sequence[TrainingPoint]], Any],
    batch: Batch,
    stage: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch, and its named parts (detached)."""
    engine, flow, seed, condition_dropout = (
        parts.engine,
        parts.flow,
        parts.config.seed,
        parts.config.training.condition_dropout,
    )
    generators = [keyed_generator(seed, "sample", position) for position in batch.positions]
    images = upload(batch.images, engine.device)
    with torch.no_grad():
        x = parts.encode(images, generators)
    given = parts.conditioner(batch.annotations)
    if given.droppable:
        dropped = rand((len(generators),), generators, dtype=torch.float32, device="cpu") < condition_dropout
        given = given.drop(dropped).to(engine.device)
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


@dataclass
class _Window:
    """Means of the named losses since the last log line; a name counts the batches it occurred in, on all
    processes."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, batches: Sequence[dict[str, Tensor]]) -> None:
        """The named losses of the micro-batches of one step."""
        self.steps += 1
        for name, value in (pair for named in batches for pair in named.items()):
            self.sums[name] = self.sums.get(name, 0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def close(self, engine: Engine, images: int) -> dict[str, float]:
        """The means, and the speed at `images` a step; no loss where all steps were left out. A new window
        begins. Collective."""
        found = engine.exchange(
            {name: (float(total), self.counts[name]) for name, total in self.sums.items()}
        )
        means = {}
        for name in sorted({name for mine in found for name in mine}):
            pairs = [mine[name] for mine in found if name in mine]
            means[f"loss/{name}"] = sum(total for total, _ in pairs) / sum(count for _, count in pairs)
        seconds = time.perf_counter() - self.since
        row = {**({"loss": sum(means.values())} if means else {}), **means}
        row |= {"seconds": seconds, "images_per_second": images * self.steps / seconds}
        self.sums, self.counts, self.steps, self.since = {}, {}, 0, time.perf_counter()
        return row


def rate_of(config: Config, step: int) -> float:
    """The learning rate of a step."""
    s = config.training
    return learning_rate(
        step, s.steps, peak=s.learning_rate, warmup=s.warmup_steps, decay=s.decay, final=s.final_learning_rate
    )
