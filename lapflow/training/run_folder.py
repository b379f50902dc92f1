"""A run's folder: who may write in it, what it holds, whether a command continues it.

config.yaml        the resolved config; `lapflow train RUN/config.yaml` starts the same run elsewhere
environment.json   versions of lapflow, torch, Python and of every plugin that the config names; the SHA-256
                   of config.yaml
log.jsonl          one event a line
quarantine.jsonl   the training images that could not be read, if any
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
from lapflow.core.errors import CheckpointError
from lapflow.plugins.registry import distributions_used
from lapflow.training.checkpoint import clear_asides, latest_checkpoint, step_of
from lapflow.util.digest import difference
from lapflow.util.files import ASIDE, file_sha256, replace_file, take_lock

HOW = (
    "engine.",
    "attention.",
    "sampling.",
    "evaluation.",
    *(
        f"training.{name}"
        for name in (
            "log_every",
            "checkpoint_every",
            "keep_checkpoints",
            "save_patience",
            "non_finite",
            "max_skipped",
            "bad_images",
            "activation_checkpointing",
            "workers",
            "tensorboard",
        )
    ),
)
"""The settings that may change when a run is continued: how it is carried out or used, not what it trains."""
STEPS = "training.steps:"
"""How a line of `difference` begins that is about the number of steps."""

CONFIG, ENVIRONMENT = "config.yaml", "environment.json"
HASHES = "config_sha256"
"""The key in environment.json of the SHA-256 that config.yaml may have: of the one, and of the one that it
replaced, for a kill between the two files. Folders of earlier versions have no such key."""


class RunFolder:
    """Opens `path` for one training run and holds its lock until `close`.

    A new or empty folder starts a run; the folder of a run with the same config continues it, `changes` apart
    that do not make it another run (`other_run`), which are then written down. Raises `CheckpointError` for a
    folder that another process trains in, that holds something else, whose run trains something else (saying
    what differs) or is past its last step.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path, self.config = path, config
        if path.exists() and not path.is_dir():
            raise CheckpointError(
                "the output folder is a file",
                got=str(path),
                expected="a new or empty folder, or the folder of an interrupted run",
            )
        held = sorted(p.name for p in path.iterdir()) if path.exists() and not _is_run(path) else []
        if not all(_unfinished(name) for name in held):
            if (path / "checkpoints").is_dir():
                run_config(path)  # names what is missing
            raise CheckpointError(
                "the output folder is in use",
                got=f"{path} holds {', '.join(held[:3])}, ...",
                expected="a new or empty folder, or the folder of an interrupted run",
                remedy="choose another --out",
            )
        self.changes = self._changes()
        path.mkdir(parents=True, exist_ok=True)
        lock = take_lock(path / ".lock")
        if lock is None:
            raise CheckpointError(
                "the output folder is in use",
                got=f"another process trains in {path}",
                expected="a folder of its own for each run",
                remedy="choose another --out",
            )
        self._lock = lock
        for name in (CONFIG, ENVIRONMENT):
            clear_asides(path, name)
        clear_asides(self.checkpoints)
        if self.changes or not _is_run(path):
            self._write()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def latest(self) -> Path | None:
        return latest_checkpoint(self.checkpoints)

    def close(self) -> None:
        self._lock.close()

    def _changes(self) -> list[str]:
        if not _is_run(self.path):
            return []
        changes = difference(resolved(run_config(self.path)), resolved(self.config))
        if foreign := other_run(changes, self.config):
            longer = ""
            if any(line.startswith(STEPS) for line in changes):
                longer = (
                    "; a run can be made longer only where its learning rate does not decay "
                    "(training.decay=constant)"
                )
            raise CheckpointError(
                f"the run in {self.path} has another config",
                got="; ".join(foreign),
                expected="the same config, to continue it",
                remedy="choose another --out, or repeat the command that started the run" + longer,
            )
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


def other_run(changes: list[str], config: Config) -> list[str]:
    """Those of the lines of `difference` that make it another run than that of `config`.

    Another number of steps makes one, unless the learning rate is constant: then one begins the other.
    """
    how = (*HOW, STEPS) if config.training.decay == "constant" else HOW
    return [line for line in changes if not line.startswith(how)]


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
