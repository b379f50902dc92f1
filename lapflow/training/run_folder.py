"""A run's folder: who may write in it, what it holds, whether a command continues it.

config.yaml        the resolved config; `lapflow train RUN/config.yaml` starts the same run elsewhere
environment.json   versions of lapflow, torch, Python and of every plugin that the config names; the SHA-256
                   of config.yaml
log.jsonl          one event a line
quarantine.jsonl   the training images that could not be read, if any
data.json.gz       the names and sizes of the data (`lapflow.data.contents`)
changes.jsonl      what was changed when the run went on, if anything: one line each time, with the step
checkpoints/       step-NNNNNNN/ directories and the file `latest`
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import torch

import lapflow
from lapflow.config.loading import dump_yaml, load_config, resolved
from lapflow.config.schema import Config
from lapflow.core.dataset import Dataset, path_arguments
from lapflow.core.errors import CheckpointError
from lapflow.data.contents import ALLOW, CONTENTS, contents_of, data_changes, write_contents
from lapflow.plugins.registry import distributions_used
from lapflow.training.checkpoint import clear_asides, latest_checkpoint, step_of
from lapflow.util.digest import difference
from lapflow.util.files import ASIDE, append_line, file_sha256, replace_file, take_lock

_FILES = ("log_every", "checkpoint_every", "keep_checkpoints", "save_patience", "tensorboard")
_STEPPING = ("non_finite", "max_skipped", "bad_images", "activation_checkpointing", "workers")
_TRAINING = tuple(f"training.{name}:" for name in (*_FILES, *_STEPPING))
HOW = ("engine.", "attention.", "sampling.", "evaluation.", *_TRAINING)
"""The settings that may change when a run is continued: how it is carried out or used, not what it trains."""

RATE = ("learning_rate", "warmup_steps", "decay", "final_learning_rate")
ALLOWED = (*RATE, "batch_size", "accumulation", "grad_clip_norm", "steps")
"""The settings of `training` that may change only if asked for: the run is another one from then on."""

CONFIG, ENVIRONMENT, CHANGES = "config.yaml", "environment.json", "changes.jsonl"
HASHES = "config_sha256"
"""The key in environment.json of the SHA-256 that config.yaml may have: of the one, and of the one that it
replaced, for a kill between the two files. Folders of earlier versions have no such key."""


class RunFolder:
    """Opens `path` for one training run and holds its lock until `close`.

    A new or empty folder starts a run; the folder of a run with the same config continues it, `changes` apart
    that do not make it another run (`other_run`), which `take_over` writes. Raises `CheckpointError` for a
    folder that another process trains in, that holds something else, whose run trains something else (saying
    what differs) or is past its last step.
    """

    def __init__(self, path: Path, config: Config, allow_changes: bool = False) -> None:
        self.path, self.config, self.allow_changes = path, config, allow_changes
        fit, other = "a new or empty folder, or the folder of an interrupted run", "choose another --out"
        if path.exists() and not path.is_dir():
            raise CheckpointError("the output folder is a file", got=str(path), expected=fit)
        held = sorted(p.name for p in path.iterdir()) if path.exists() and not _is_run(path) else []
        if not all(_unfinished(name) for name in held):
            if (path / "checkpoints").is_dir():
                run_config(path)  # names what is missing
            got = f"{path} holds {', '.join(held[:3])}, ..."
            raise CheckpointError("the output folder is in use", got=got, expected=fit, remedy=other)
        self.changes = self._changes()
        path.mkdir(parents=True, exist_ok=True)
        lock = take_lock(path / ".lock")
        if lock is None:
            got, alone = f"another process trains in {path}", "a folder of its own for each run"
            raise CheckpointError("the output folder is in use", got=got, expected=alone, remedy=other)
        self._lock = lock
        for name in (CONFIG, ENVIRONMENT, CONTENTS):
            clear_asides(path, name)
        clear_asides(self.checkpoints)
        if not _is_run(path):
            self._write()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def latest(self) -> Path | None:
        return latest_checkpoint(self.checkpoints)

    def close(self) -> None:
        self._lock.close()

    def take_over(self, step: int, dataset: Dataset) -> None:
        """Write down what is trained from `step` on: the data, and what has changed. Raises `DataError`, with
        nothing written, for other data than the run's unless changes are allowed."""
        file, found = self.path / CONTENTS, contents_of(dataset)
        other = data_changes(file, found, self.allow_changes)
        self.changes += [f"data: {line}" for line in other]
        if self.changes:
            line = json.dumps({"step": step, "changes": self.changes})
            append_line(self.path / CHANGES, line, durably=True)
            self._write()
        if other or not file.exists():
            write_contents(file, found)

    def _changes(self) -> list[str]:
        if not _is_run(self.path):
            return []
        changes = difference(resolved(run_config(self.path)), resolved(self.config))
        what = f"the run in {self.path} has another config"
        refuse_other_run(what, changes, self.config, self.allow_changes)
        steps, latest = self.config.training.steps, self.latest
        reached = None if latest is None else step_of(latest)
        if reached is not None and reached > steps:
            raise CheckpointError(
                f"the run in {self.path} is past its end",
                got=f"training.steps {steps}, and a checkpoint of step {reached}",
                expected=f"at least {reached} steps",
                remedy="choose another --out, or repeat the command that trained it last",
            )
        return changes

    def _write(self) -> None:
        data = dump_yaml(self.config).encode()
        hashes = [hashlib.sha256(data).hexdigest()]
        if _is_run(self.path):
            hashes.append(file_sha256(self.path / CONFIG))
        made_with = {**environment(self.config), HASHES: hashes}
        replace_file(self.path / ENVIRONMENT, json.dumps(made_with, indent=2).encode())
        replace_file(self.path / CONFIG, data)


def other_run(changes: list[str], config: Config, allow_changes: bool = False) -> list[str]:
    """Those of the lines of `difference` that make it another run than that of `config`.

    Another number of steps makes one, unless the learning rate is constant: then one begins the other. Where
    the data lie makes none, and neither do the settings `ALLOWED` if asked for.
    """
    how = (*HOW, "training.steps:") if config.training.decay == "constant" else HOW
    asked = tuple(f"training.{name}:" for name in ALLOWED) if allow_changes else ()
    return [line for line in changes if not line.startswith((*how, *asked, *places(config)))]


def places(config: Config) -> tuple[str, ...]:
    """How the lines of `difference` begin that are about where the data lie."""
    return tuple(f"data.{name}:" for name in path_arguments(type(config.data.arguments)))


def refuse_other_run(what: str, changes: list[str], config: Config, allow_changes: bool) -> None:
    """Raises `CheckpointError` for lines of `difference` that make it another run."""
    if foreign := other_run(changes, config, allow_changes):
        remedy = "choose another --out, or repeat the command that trained the run last"
        expected = "the same config, to continue it"
        if allow_changes:
            expected += f"; of training may change {', '.join(ALLOWED)}"
        elif not other_run(changes, config, allow_changes=True):
            remedy += f"; to go on with these changes: {ALLOW}"
        raise CheckpointError(what, got="; ".join(foreign), expected=expected, remedy=remedy)


def _is_run(path: Path) -> bool:
    """Whether `path` is a run's folder; somebody's own config.yaml does not make it one."""
    return (path / CONFIG).is_file() and (path / ENVIRONMENT).is_file()


def _unfinished(name: str) -> bool:
    """Whether it is all that a run leaves which is killed before it has a config."""
    return name in (".lock", ENVIRONMENT) or name.startswith((f"{ASIDE}{CONFIG}", f"{ASIDE}{ENVIRONMENT}"))


def run_config(run: Path) -> Config:
    """The resolved config of a run folder. Raises `CheckpointError` for another folder or changed config."""
    file = run / CONFIG
    if not file.is_file():
        raise CheckpointError(
            f"{run} is not a run folder",
            got=f"no {CONFIG}" if run.is_dir() else "no such folder",
            expected="a folder that `lapflow train --out` wrote",
        )
    hashes = _known_hashes(run)
    if hashes is not None and file_sha256(file) not in hashes:
        raise CheckpointError(
            "the config of the run was changed since",
            got=f"{file} with another SHA-256 than {ENVIRONMENT} says",
            expected="the file as the run wrote it",
            remedy="restore it, or train in a new folder with it",
        )
    return load_config(file)


def _known_hashes(run: Path) -> list[str] | None:
    """The hashes that config.yaml may have; None in the folder of an earlier version."""
    file = run / ENVIRONMENT
    try:
        found = json.loads(file.read_bytes())
        if not isinstance(found, dict) or not isinstance(found.get(HASHES, []), list):
            raise ValueError(f"it does not say what {ENVIRONMENT} says")
    except (OSError, ValueError, RecursionError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(
            f"{ENVIRONMENT} of the run {run} cannot be read",
            got=cause,
            expected="the file as the run wrote it",
            remedy="restore it from a copy",
        ) from None
    return found.get(HASHES)


def environment(config: Config) -> dict[str, Any]:
    """Versions that a run depends on."""
    return {
        "lapflow": lapflow.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "plugins": distributions_used(resolved(config)),
    }
