"""Checkpoints: a directory is whole or it is not there.

A checkpoint is written aside, every file flushed to the disk, a manifest of SHA-256 hashes added, and the directory
renamed into place; then the file `latest` is replaced by one that names it. Loading checks every hash, and reads
safetensors and JSON only: nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lapflow.core.errors import CheckpointError
from lapflow.core.files import replace_file, sync_folder, write_durably

FORMAT = "lapflow-checkpoint-1"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """Named groups of tensors and JSON documents."""

    tensors: dict[str, dict[str, Tensor]]
    documents: dict[str, Any]


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/step-NNNNNNN` and point `folder/latest` at it; keep the `keep` newest. Raises `CheckpointError` when the
    disk refuses, with the checkpoints before it untouched."""
    target = folder / f"step-{step:07d}"
    aside = folder / f".writing-{target.name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        hashes = {}
        for name, group in checkpoint.tensors.items():
            data = save_tensors({key: value.detach().cpu().contiguous() for key, value in group.items()})
            hashes[f"{name}.safetensors"] = write_durably(aside / f"{name}.safetensors", data)
        for name, document in checkpoint.documents.items():
            hashes[f"{name}.json"] = write_durably(aside / f"{name}.json", json.dumps(document, indent=2).encode())
        write_durably(aside / MANIFEST, json.dumps({"format": FORMAT, "step": step, "sha256": hashes}, indent=2).encode())
        sync_folder(aside)
        if target.exists():  # saved before a resume went back: the old one goes only when the new one stands
            target.rename(folder / f".writing-old-{target.name}")
        aside.rename(target)
        sync_folder(folder)
        replace_file(folder / "latest", target.name.encode())
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written: {error.strerror or error}",
            got=str(folder),
            remedy="free some space or mend the folder; the checkpoints before it are intact",
        ) from error
    _prune(folder, keep)
    return target


def load_checkpoint(path: Path, only: tuple[str, ...] | None = None, needs: tuple[str, ...] = ()) -> Checkpoint:
    """Read and verify a checkpoint directory; `only` names the tensor groups wanted (None: all), `needs` the groups and
    documents without which it is of no use.

    Raises `CheckpointError` for a missing, foreign, incomplete or altered one, naming the file.
    """
    manifest = _manifest(path)
    held = {file.rsplit(".", 1)[0] for file in manifest["sha256"]}
    if missing := [name for name in needs if name not in held]:
        raise CheckpointError(
            f"the checkpoint {path} holds no {', '.join(missing)}", got=", ".join(sorted(held)) or "nothing", remedy=_REMEDY
        )
    tensors, documents = {}, {}
    for file, digest in manifest["sha256"].items():
        name, kind = file.rsplit(".", 1)
        if kind == "safetensors" and only is not None and name not in only:
            continue
        try:
            data = (path / file).read_bytes()
        except OSError as error:
            raise CheckpointError(f"the checkpoint {path} lacks {file}: {error.strerror}", remedy=_REMEDY) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise CheckpointError(
                f"{file} in the checkpoint {path} is not what was saved", got="another SHA-256", expected=digest, remedy=_REMEDY
            )
        try:
            if kind == "safetensors":
                tensors[name] = load_tensors(data)
            else:
                documents[name] = json.loads(data)
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(f"{file} in the checkpoint {path} cannot be read: {error}", remedy=_REMEDY) from None
    return Checkpoint(tensors, documents)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, or None.

    The directories themselves are asked, not the file `latest`, which is for people and other programs: should a crash
    come between the rename and the update of `latest`, the newer directory is whole and wins. A directory gets its name
    only when it is whole, so one that lacks something has been damaged since: loading it says so.
    """
    found = _by_step(folder)
    return found[-1] if found else None


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
    except ValueError as error:
        raise CheckpointError(f"the manifest of {path} cannot be read: {error}", remedy=_REMEDY) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not isinstance(manifest.get("sha256"), dict):
        raise CheckpointError(
            f"{path} is not a checkpoint of this kind",
            got=f"format {manifest.get('format') if isinstance(manifest, Mapping) else manifest!r}",
            expected=FORMAT,
        )
    if any("/" in file or not file.endswith((".safetensors", ".json")) for file in manifest["sha256"]):
        raise CheckpointError(f"the manifest of {path} names files a checkpoint does not have", remedy=_REMEDY)
    return manifest


def _prune(folder: Path, keep: int) -> None:
    for old in _by_step(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for left in folder.glob(".writing-*"):
        shutil.rmtree(left, ignore_errors=True)


def _by_step(folder: Path) -> list[Path]:
    """The checkpoint directories, oldest first, by number and not by name."""
    return sorted((p for p in folder.glob("step-*") if p.name[5:].isdecimal()), key=lambda p: int(p.name[5:]))
