"""Checkpoints: a directory is whole or it is not there.

A checkpoint is written aside, every file flushed to the disk, a manifest of SHA-256 hashes added, and the
directory renamed into place; then the file `latest` is replaced by one that names it. Loading checks every
hash, and reads safetensors and JSON only: nothing in a checkpoint is ever executed.

    step-NNNNNNN            whole
    replaced-step-NNNNNNN   whole too, and set aside for another of its step: it counts only while that is
    missing .writing-*              unfinished, or about to be removed: never read, and cleared by the next
    save
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lapflow.core.errors import CheckpointError
from lapflow.util.files import ASIDE, replace_file, sync_folder, write_durably

FORMAT = "lapflow-checkpoint-1"
MANIFEST = "manifest.json"
REPLACED = "replaced-"


def checkpoint_name(step: int) -> str:
    """The name of the checkpoint of a step."""
    return f"step-{step:07d}"


@dataclass(frozen=True)
class Checkpoint:
    """Named groups of tensors and JSON documents."""

    tensors: dict[str, dict[str, Tensor]]
    documents: dict[str, Any]


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/step-NNNNNNN` and point `folder/latest` at it; keep the `keep` newest. Raises
    `CheckpointError` when the disk refuses, with the checkpoints before it untouched."""
    target = folder / checkpoint_name(step)
    aside = folder / f"{ASIDE}{target.name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        hashes = {}
        for name, group in checkpoint.tensors.items():
            data = save_tensors({key: value.detach().cpu().contiguous() for key, value in group.items()})
            hashes[f"{name}.safetensors"] = write_durably(aside / f"{name}.safetensors", data)
        for name, document in checkpoint.documents.items():
            hashes[f"{name}.json"] = write_durably(
                aside / f"{name}.json", json.dumps(document, indent=2).encode()
            )
        write_durably(
            aside / MANIFEST,
            json.dumps({"format": FORMAT, "step": step, "sha256": hashes}, indent=2).encode(),
        )
        sync_folder(aside)
        # saved before a resume went back, or by a try that failed late: it goes only when the new one stands
        if target.exists():
            _remove(folder / f"{REPLACED}{target.name}")
            target.rename(folder / f"{REPLACED}{target.name}")
        aside.rename(target)
        sync_folder(folder)
        replace_file(folder / "latest", target.name.encode())
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written: {error.strerror or error}",
            got=str(folder),
            remedy="free some space or fix the folder; the checkpoints before it are intact",
        ) from error
    _prune(folder, keep)
    return target


def load_checkpoint(
    path: Path, only: tuple[str, ...] | None = None, needs: tuple[str, ...] = ()
) -> Checkpoint:
    """Read and verify a checkpoint directory; `only` names the tensor groups wanted (None: all), `needs` the
    groups and documents without which it is of no use.

    Raises `CheckpointError` for a missing, foreign, incomplete or altered one, naming the file.
    """
    manifest = _manifest(path)
    held = {file.rsplit(".", 1)[0] for file in manifest["sha256"]}
    if missing := [name for name in needs if name not in held]:
        raise CheckpointError(
            f"the checkpoint {path} holds no {', '.join(missing)}",
            got=f"{MANIFEST} lists {', '.join(sorted(held)) or 'nothing'}",
            remedy=_REMEDY,
        )
    tensors, documents = {}, {}
    for file, digest in manifest["sha256"].items():
        name, kind = file.rsplit(".", 1)
        if kind == "safetensors" and only is not None and name not in only:
            continue
        try:
            data = (path / file).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint {path} lacks {file}: {error.strerror}", remedy=_REMEDY
            ) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise CheckpointError(
                f"{file} in the checkpoint {path} is not what was saved",
                got="another SHA-256",
                expected=digest,
                remedy=_REMEDY,
            )
        try:
            if kind == "safetensors":
                tensors[name] = load_tensors(data)
            else:
                documents[name] = json.loads(data)
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(
                f"{file} in the checkpoint {path} cannot be read: {error}", remedy=_REMEDY
            ) from None
    return Checkpoint(tensors, documents)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, or None.

    The directories themselves are asked, not the file `latest`, which is for people and other programs:
    should a crash come between the rename and the update of `latest`, the newer directory is whole and wins.
    A directory gets its name only when it is whole, so one that lacks something has been damaged since:
    loading it says so.
    """
    found = _by_step(folder)
    return found[-1] if found else None


def clear_asides(folder: Path, of: str = "") -> None:
    """Remove what a killed process left unfinished in `folder`: of the file or directory called `of`, or of
    all."""
    for left in folder.glob(f"{ASIDE}{of}*"):
        with suppress(OSError):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


_REMEDY = "restore it from a copy, or remove the directory to go on from the checkpoint before it"


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except OSError:
        raise CheckpointError(
            f"{path} is not a whole checkpoint",
            got="no manifest.json",
            expected="a directory that lapflow saved",
            remedy="restore it from a copy, or remove it to go on from the checkpoint before it",
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{MANIFEST} of the checkpoint {path} cannot be read: {error}", remedy=_REMEDY
        ) from None
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("sha256"), dict)
    ):
        raise CheckpointError(
            f"{path} is not a checkpoint of this kind",
            where=str(path / MANIFEST),
            got=f"format {manifest.get('format') if isinstance(manifest, Mapping) else manifest!r}",
            expected=FORMAT,
        )
    if any("/" in file or not file.endswith((".safetensors", ".json")) for file in manifest["sha256"]):
        raise CheckpointError(
            f"{MANIFEST} of the checkpoint {path} names files a checkpoint does not have", remedy=_REMEDY
        )
    if (step := step_of(path)) is not None and manifest.get("step") != step:
        raise CheckpointError(
            f"{MANIFEST} of the checkpoint {path} is of another step",
            got=manifest.get("step"),
            expected=step,
            remedy=_REMEDY,
        )
    return manifest


def _prune(folder: Path, keep: int) -> None:
    clear_asides(folder)
    kept = _by_step(folder)[-keep:]
    for old in [*folder.glob("step-*"), *folder.glob(f"{REPLACED}step-*")]:
        if old not in kept and step_of(old) is not None:
            _remove(old)


def _remove(path: Path) -> None:
    """Remove a checkpoint, if it is there: at once for whoever looks, since a part of one must not keep its
    name."""
    aside = path.with_name(f"{ASIDE}removed-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _by_step(folder: Path) -> list[Path]:
    """The checkpoint directories, oldest first, by number and not by name; of two of one step the one that
    replaced the other."""
    found = {
        step_of(path): path for pattern in (f"{REPLACED}step-*", "step-*") for path in folder.glob(pattern)
    }
    return [path for _, path in sorted((step, path) for step, path in found.items() if step is not None)]


def step_of(path: Path) -> int | None:
    """The step that a checkpoint's directory is named by; None for another directory."""
    number = path.name.removeprefix(REPLACED).removeprefix("step-")
    return int(number) if number.isdecimal() else None
