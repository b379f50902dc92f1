"""What a run's data are: the names and sizes of their files, by which they are known wherever they lie.

A run folder keeps them in `data.json.gz`, {split: {name: size}}; gzip's checksum tells of damage. No file is
opened: other content of the same size under the same name is not seen.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

from lapflow.core.dataset import SPLITS, Dataset
from lapflow.core.errors import CheckpointError, DataError, printable
from lapflow.util.files import replace_file

CONTENTS = "data.json.gz"
ALLOW = "--allow-changes (in Python allow_changes=True)"
Contents = dict[str, dict[str, int | str]]


def contents_of(dataset: Dataset) -> Contents:
    """{split: {name: size}}. Raises `DataError` where the data cannot be listed."""
    return {split: dataset.contents(split) for split in SPLITS}


def write_contents(file: Path, contents: Contents) -> None:
    replace_file(file, gzip.compress(json.dumps(contents).encode(), 1, mtime=0))


def data_changes(file: Path, contents: Contents, allow_changes: bool) -> list[str]:
    """How `contents` differ from those kept in `file`, in one line; none where they do not or there is no
    file. Raises `DataError` unless changes are allowed, `CheckpointError` for a damaged file."""
    try:
        before: Contents = json.loads(gzip.decompress(file.read_bytes())) if file.exists() else contents
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read", got=error, remedy="restore it from a copy") from None
    new, missing, changed = [], [], []
    for split in SPLITS:
        old, now = before[split], contents[split]
        new += [name for name in now if name not in old]
        missing += [name for name in old if name not in now]
        changed += [name for name in now if name in old and old[name] != now[name]]
    named = {"new": new, "missing": missing, "changed in size": changed}
    told = ", ".join(f"{len(names)} {what} ({_first(names)})" for what, names in named.items() if names)
    if told and not allow_changes:
        raise DataError(
            "these are not the data that the run was trained on",
            got=told,
            expected=f"the names and sizes of the run, in {file}",
            remedy=f"bring them back, name where they lie (such as data.root=PATH), or take these: {ALLOW}",
        )
    return [told] if told else []


def _first(names: list[str]) -> str:
    return printable(", ".join(names[:3])) + (", ..." if len(names) > 3 else "")
