"""Checkpoints: a directory is whole or it is not there.

A checkpoint is written aside, every file flushed to the disk, a manifest of SHA-256 hashes added, and the
directory renamed into place; then the file `latest` is replaced by one that names it. Loading checks every
hash, and reads safetensors and JSON only: nothing in a checkpoint is ever executed.

    step-NNNNNNN            whole
    replaced-step-NNNNNNN   whole, set aside for another of its step: counts only while that is missing
    .writing-*              unfinished, or about to be removed: never read, cleared by the next save
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lapflow.core.errors import CheckpointError
from lapflow.util.files import ASIDE, replace_file, sync_folder, write_durably

FORMAT = "lapflow-checkpoint-1"
MANIFEST = "manifest.json"
REPLACED = "replaced-"
_REMEDY = "restore it from a copy, or remove the directory to go on from the checkpoint before it"


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
            hashes[f"{name}.json"] = write_durably(aside / f"{name}.json", _json(document))
        write_durably(aside / MANIFEST, _json({"format": FORMAT, "step": step, "sha256": hashes}))
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
    held = {file.rsplit(".", 1)[0] for file in manifest.sha256}
    if missing := [name for name in needs if name not in held]:
        raise CheckpointError(
            f"the checkpoint {path} holds no {', '.join(missing)}",
            got=f"{MANIFEST} lists {', '.join(sorted(held)) or 'nothing'}",
            remedy=_REMEDY,
        )
    tensors, documents = {}, {}
    for file, digest in manifest.sha256.items():
        name, kind = file.rsplit(".", 1)
        if kind == "safetensors" and only is not None and name not in only:
            continue
        try:
            data = (path / file).read_bytes()
            whole = hashlib.sha256(data).hexdigest() == digest
            if whole and kind == "safetensors":
                tensors[name] = load_tensors(data)
            elif whole:
                documents[name] = json.loads(data)
        except (OSError, SafetensorError, ValueError) as error:
            cause = f"{file} in the checkpoint {path} cannot be read: {getattr(error, 'strerror', error)}"
            raise CheckpointError(cause, remedy=_REMEDY) from None
        if not whole:
            raise CheckpointError(
                f"{file} in the checkpoint {path} is not what was saved",
                got="another SHA-256",
                expected=digest,
                remedy=_REMEDY,
            )
    return Checkpoint(tensors, documents)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, or None.

    The directories are asked, and not the file `latest`, which is for people and other programs: after a
    crash between the two, the newer directory is whole and wins. A directory gets its name only when it is
    whole; should it lack something since, loading it says so.
    """
    found = _by_step(folder)
    return found[-1] if found else None


def clear_asides(folder: Path, of: str = "") -> None:
    """Remove what a killed process left unfinished in `folder`: of what is called `of`, or of all."""
    for left in folder.glob(f"{ASIDE}{of}*"):
        with suppress(OSError):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


class _Manifest(pydantic.BaseModel):
    """The hashes of a checkpoint's files: safetensors and JSON, beside it and nowhere else."""

    format: Literal["lapflow-checkpoint-1"]
    step: int | None = None
    sha256: dict[Annotated[str, pydantic.Field(pattern=r"^[^/]*\.(safetensors|json)$")], str]


def _manifest(path: Path) -> _Manifest:
    try:
        manifest = _Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except OSError:
        raise CheckpointError(
            f"{path} is not a whole checkpoint",
            got="no manifest.json",
            expected="a directory that lapflow saved",
            remedy=_REMEDY,
        ) from None
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise CheckpointError(
            f"{MANIFEST} of the checkpoint {path} is not one that lapflow wrote, or it was altered",
            got=f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}",
            expected=f"the format {FORMAT}",
            remedy=_REMEDY,
        ) from None
    if (step := step_of(path)) is not None and manifest.step != step:
        raise CheckpointError(
            f"{MANIFEST} of the checkpoint {path} is of another step",
            got=manifest.step,
            expected=step,
            remedy=_REMEDY,
        )
    return manifest


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=2).encode()


def _prune(folder: Path, keep: int) -> None:
    clear_asides(folder)
    kept = _by_step(folder)[-keep:]
    for old in [*folder.glob("step-*"), *folder.glob(f"{REPLACED}step-*")]:
        if old not in kept and step_of(old) is not None:
            _remove(old)


def _remove(path: Path) -> None:
    """Remove a checkpoint, if it is there, by one rename: a part of one must not keep its name."""
    aside = path.with_name(f"{ASIDE}removed-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _by_step(folder: Path) -> list[Path]:
    """The checkpoint directories by number, oldest first; of two of one step the one not set aside."""
    found = {
        step_of(path): path for pattern in (f"{REPLACED}step-*", "step-*") for path in folder.glob(pattern)
    }
    return [path for _, path in sorted((step, path) for step, path in found.items() if step is not None)]


def step_of(path: Path) -> int | None:
    """The step that a checkpoint's directory is named by; None for another directory."""
    number = path.name.removeprefix(REPLACED).removeprefix("step-")
    return int(number) if number.isdecimal() else None
