"""Safetensors files that say what they are of and are known to be whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from lapflow.core.errors import DataError
from lapflow.util.digest import tensors_sha256
from lapflow.util.files import replace_file


def write_sealed(path: Path, tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> None:
    """Write the file durably, whole or not at all. `head` are JSON values. Raises `DataError` where the disk
    refuses."""
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps({**head, "tensors": {name: tensors_sha256({name: kept[name]}) for name in kept}})
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, save_tensors(kept, metadata={"lapflow": text}))


def read_sealed(path: Path, *names: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The head, and those of the tensors called `names` that there are (default: all); both are empty for a
    file of another kind. Raises `OSError`, or `ValueError` for a file that is damaged."""
    try:
        with safe_open(path, "pt") as file:
            head = json.loads((file.metadata() or {}).get("lapflow", "{}"))
            if not isinstance(head, dict) or not isinstance(head.get("tensors"), dict):
                return {}, {}
            known = head["tensors"]
            tensors = {name: file.get_tensor(name) for name in names or known if name in known}
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    if any(known[name] != tensors_sha256({name: value}) for name, value in tensors.items()):
        raise ValueError("its numbers are not those that were written")
    return head, tensors


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Gives what the disk refuses a name and a remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the evaluation cannot be written: {error.strerror or error}",
            got=str(error.filename or where),
            remedy="free some space or fix the folder, and repeat the command: it goes on where it was",
        ) from error
