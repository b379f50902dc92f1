"""The training loop, top to bottom.

Every random number is a pure function of the config's seed and of what is counted: a sample's noise, time,
label drop and flip of its position in the consumed stream, a batch's segment of the step. So a resumed run is
the uninterrupted one, bit for bit on CPU, and no generator's state needs saving.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lapflow.config.building import Composition, build
from lapflow.config.loading import resolved
from lapflow.config.schema import Config
from lapflow.core.engine import Engine
from lapflow.core.errors import CheckpointError, LapflowError
from lapflow.data.loader import Batch, Batches, place
from lapflow.data.quarantine import QUARANTINE, Quarantine
from lapflow.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lapflow.training.events import EventLog, Signals, StoppedError, Watcher, summary_writer
from lapflow.training.run_folder import RunFolder, environment, refuse_other_run
from lapflow.training.step import EMA, MODEL, Groups, TrainingStep, checkpoint_activations, rate_of, take_step
from lapflow.util.digest import difference

PAUSE = 5.0
"""Seconds between tries to save."""


class TrainingError(LapflowError):
    """A run that cannot go on: its loss or gradient is not finite."""


def train(
    config: Config, out: Path, watch: Watcher = lambda event: None, allow_changes: bool = False
) -> Path:
    """Train `config` in the folder `out`, continuing the run that is there; returns `out`.

    With `allow_changes` it may go on with other data and other settings (`run_folder.ALLOWED`), from its last
    step, which the event `resume` and `changes.jsonl` tell.

    On several processes (see the engines) every one of them calls this. `watch` receives events, on rank 0:
    start or resume, train (every `log_every` steps), checkpoint, done, and what went wrong but did not stop
    the run. Raises `StoppedError` after saving when a signal asked the run to stop.
    """
    parts, module = composed(config)
    with joined(parts.engine):
        folder = parts.engine.first(lambda: RunFolder(out, config, allow_changes))
        try:
            with Signals() as signals:
                log = EventLog(None if folder is None else out, watch, config.training.tensorboard)
                TrainingLoop(parts, module, folder, log, signals).run(out / QUARANTINE)
        finally:
            if folder is not None:
                folder.close()
    return out


def composed(config: Config) -> tuple[Composition, TrainingStep]:
    """What a config trains. What can be wrong with it is said here, before anything is written."""
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


@dataclass
class Progress:
    """How far a run is; `skipped` counts the steps left out as not finite."""

    step: int = 0
    consumed: int = 0
    ema_updates: int = 0
    skipped: int = 0


class TrainingLoop:
    """One process's part in a run: `model` as the engine runs it, its average `ema`, the `progress`, and this
    process's `batches` from there on. `folder` is the run's, on rank 0. Making one restores the last
    checkpoint, if there is one (`resumed`). Collective."""

    def __init__(
        self,
        parts: Composition,
        module: TrainingStep,
        folder: RunFolder | None,
        log: EventLog,
        signals: Signals,
    ) -> None:
        self.parts, self.module, self.folder, self.log, self.signals = parts, module, folder, log, signals
        self.settings, self.engine, self.progress = parts.config.training, parts.engine, Progress()
        settings, engine = self.settings, self.engine
        self.about = parts.describe()  # before an engine takes the weights apart
        told = (None, False) if folder is None else (folder.latest, folder.allow_changes)
        latest, allow_changes = engine.exchange(told)[0]
        saved = engine.jointly(lambda: self._checkpoint(latest, allow_changes))
        self.resumed = saved is not None
        if saved is not None:
            module.load(saved.tensors)
            self.progress = Progress(**saved.documents["state"])
        engine.first(lambda: None if folder is None else folder.take_over(self.progress.step, parts.dataset))
        if saved is None:
            engine.jointly(parts.fit)
        inside = {id(p) for unit in parts.model.units() for p in unit.parameters()}
        hidden = {name for name, p in module.named_parameters() if id(p) in inside}
        self.model = engine.prepare(
            module,
            lambda parameters: parts.optimizer.build(parameters, hidden, settings.learning_rate),
            grad_clip_norm=settings.grad_clip_norm,
            units=parts.model.units(),
        )
        if settings.activation_checkpointing:
            checkpoint_activations(parts.model)  # around what the engine compiled
        self.ema: EMA | None = None
        if settings.ema_decay is not None:
            self.ema = EMA(module.averaged(engine.shards()), settings.ema_decay)
        if saved is not None:
            engine.restore(saved.tensors["optimizer"])
            if self.ema is not None:
                average = engine.scatter(module.named({MODEL: saved.tensors["ema"]}))
                self.ema.load(average, self.progress.ema_updates)
        self.kept = self.progress.step
        self.batches = iter(
            Batches(
                parts.dataset,
                "train",
                seed=parts.config.seed,
                batch_size=settings.batch_size,
                consumed=self.progress.consumed,
                flip=settings.flip,
                rank=engine.rank,
                world_size=engine.world_size,
                workers=settings.workers,
            )
        )

    def run(self, quarantined: Path) -> None:
        """Train to the end of the run. `quarantined` lists images that cannot be read. Collective."""
        parts, settings, engine, progress = self.parts, self.settings, self.engine, self.progress
        changes = {"changes": self.folder.changes} if self.folder is not None and self.folder.changes else {}
        self._say("resume" if self.resumed else "start", steps=settings.steps, **self.about, **changes)
        quarantine = Quarantine(quarantined, parts.dataset.size("train"), settings.bad_images)
        window, images = _Window(), settings.batch_size * settings.accumulation
        while progress.step < settings.steps:
            # ---- read; stop, on all processes, if one is asked to or cannot read on
            step, problem = self._read(quarantine)
            asked, failed = engine.agree(self.signals.received is not None, problem is not None)
            if asked or failed:
                if progress.step > self.kept:
                    self._save()
                self._stop(problem)

            # ---- step
            rate = rate_of(parts.config, progress.step)
            norm, taken = take_step(parts, self.model, step, progress.step)
            progress.step += 1
            progress.consumed += images
            if math.isfinite(norm):
                window.add([named for _, named in taken])
                self.average()
            else:
                self._leave_out(step, [loss for loss, _ in taken], norm)
            ends = progress.step == settings.steps
            if progress.step % settings.log_every == 0 or ends:
                finite = norm if math.isfinite(norm) else None
                self._say("train", **window.means(engine, images), learning_rate=rate, gradient_norm=finite)
                window = _Window()

            # ---- save
            if progress.step % settings.checkpoint_every == 0 or ends:
                self._save()
        self._say("done")
        self.log.close()

    def read(self) -> list[Batch]:
        """This process's micro-batches of the next step."""
        return [next(self.batches) for _ in range(self.settings.accumulation)]

    def average(self) -> None:
        """Take the weights after a step into their average, if one is kept."""
        if self.ema is not None:
            self.ema.update(self.engine.shards())
            self.progress.ema_updates = self.ema.updates

    def _say(self, event: str, **more: Any) -> None:
        self.log({"event": event, "step": self.progress.step, **more})

    def _read(self, quarantine: Quarantine) -> tuple[list[Batch], LapflowError | None]:
        """What `read` gives, or the error that keeps this process from going on."""
        try:
            found = self.read()
            for batch in found:
                if new := quarantine.add(batch.unreadable):
                    self._say("quarantined", names=new, total=quarantine.count)
        except LapflowError as error:
            return [], error
        return found, None

    def _stop(self, problem: LapflowError | None) -> None:
        """Raise what ends the run here: this process's problem, or what another told. Collective."""
        told = self.engine.exchange((self.signals.received, problem))
        failed = [error for _, error in told if error is not None]
        if problem is None and not failed:
            reason = next(name for name, _ in told if name is not None)
            self._say("stopped", signal=reason)
            what = f"the run was asked to stop and is saved at step {self.progress.step}"
            stopped = StoppedError(what, got=reason, remedy="repeat the same command to go on")
            problem = self.engine.everywhere(stopped)
        elif problem is None:
            problem = failed[0]
            problem.said = True
        self.log.close()
        raise problem

    def _leave_out(self, batches: list[Batch], losses: list[Tensor], norm: float) -> None:
        """A step that is not finite and updated nothing: log and count it, or end the run. Collective."""
        engine, settings, progress, dataset = self.engine, self.settings, self.progress, self.parts.dataset
        seed, size = self.parts.config.seed, dataset.size("train")
        mine = []
        for batch, loss in zip(batches, losses, strict=True):
            samples = [dataset.name("train", place(seed, size, position)[1]) for position in batch.positions]
            mine.append({"rank": engine.rank, "loss": repr(loss.item()), "samples": samples})
        told = [row for rows in engine.exchange(mine) for row in rows]
        bad = [row for row in told if not math.isfinite(float(row["loss"]))] or told
        progress.skipped += 1
        self._say("non_finite", gradient_norm=repr(norm), skipped=progress.skipped, batches=bad)
        if settings.non_finite == "skip" and progress.skipped <= settings.max_skipped:
            return
        latest = None if self.folder is None else self.folder.latest
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

    def _save(self) -> None:
        """A checkpoint of all that resuming and sampling need, gathered from all processes and written by the
        first. Raises `CheckpointError`, on every process, where the disk refuses it. Collective."""
        engine, module = self.engine, self.module
        tensors = {**module.groups(engine.gather(engine.shards())), "optimizer": engine.state()}
        if self.ema is not None:
            tensors["ema"] = module.groups(engine.gather(self.ema.shadow))[MODEL]
        self._say("checkpoint", path=engine.first(lambda: self._written(tensors)))
        self.kept = self.progress.step

    def _written(self, tensors: Groups) -> str:
        """Write a checkpoint; its path in the run's folder. Should the disk refuse, try again for
        `training.save_patience` seconds, unless a signal asks the run to stop."""
        assert self.folder is not None, "rank 0 holds the run's folder"
        parts, settings = self.parts, self.settings
        documents = {
            "state": asdict(self.progress),
            "config": resolved(parts.config),
            "environment": environment(parts.config),
            "classes": list(parts.dataset.class_names),
            "shape": list(parts.dataset.shape),
            **({"frozen": parts.frozen} if parts.frozen else {}),
        }
        checkpoint, deadline = Checkpoint(tensors, documents), time.monotonic() + settings.save_patience
        where, step, keep = self.folder.checkpoints, self.progress.step, settings.keep_checkpoints
        while True:
            try:
                return str(save_checkpoint(where, step, checkpoint, keep).relative_to(self.folder.path))
            except CheckpointError as error:
                if time.monotonic() + PAUSE > deadline or self.signals.received:
                    raise
                self._say("save_failed", cause=error.what, retry_in=PAUSE)
            wait = time.monotonic() + PAUSE
            while time.monotonic() < wait and not self.signals.received:
                time.sleep(0.1)

    def _checkpoint(self, path: Path | None, allow_changes: bool) -> Checkpoint | None:
        """The checkpoint to go on from. Raises `CheckpointError` unless it is of this config, these classes
        and these frozen networks: data and files may have changed meanwhile."""
        if path is None:
            return None
        parts, average = self.parts, () if self.settings.ema_decay is None else ("ema",)
        needs = (*self.module.parts, "optimizer", "state", "config", "classes", *average)
        saved = load_checkpoint(path, needs=needs)
        changes = difference(saved.documents["config"], resolved(parts.config))
        refuse_other_run(f"the checkpoint {path} is of another run", changes, parts.config, allow_changes)
        if (trained := saved.documents["classes"]) != list(parts.dataset.class_names):
            raise CheckpointError(
                f"the data's classes are not those that {path} was trained on",
                got=", ".join(parts.dataset.class_names) or "no classes",
                expected=", ".join(trained) or "no classes",
                remedy="bring the data back as it was, or train in a new folder",
            )
        if changes := difference(saved.documents.get("frozen", {}), parts.frozen):
            raise CheckpointError(
                f"the objective's frozen networks are not those that {path} was trained with",
                got="; ".join(changes),
                expected="weights of the same SHA-256",
                remedy="bring them back as they were, or train in a new folder",
            )
        return saved


@dataclass
class _Window:
    """Means of the named losses since the last log line, each over all processes' batches that had it."""

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

    def means(self, engine: Engine, images: int) -> dict[str, float]:
        """The means, and the speed at `images` a step; no loss where all steps were left out. Collective."""
        mine = {name: (float(total), self.counts[name]) for name, total in self.sums.items()}
        found = engine.exchange(mine)
        means = {}
        for name in sorted({name for mine in found for name in mine}):
            pairs = [mine[name] for mine in found if name in mine]
            means[f"loss/{name}"] = sum(total for total, _ in pairs) / sum(count for _, count in pairs)
        seconds = time.perf_counter() - self.since
        row = {"loss": sum(means.values()), **means} if means else {}
        return {**row, "seconds": seconds, "images_per_second": images * self.steps / seconds}
