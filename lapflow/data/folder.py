"""A folder of pictures: each subfolder a class, or all pictures in one folder without classes."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from lapflow.core.dataset import Dataset, Sample, Split, absolute_path
from lapflow.core.errors import DataError, printable
from lapflow.data.picture import Channels, read_picture
from lapflow.util.random import uniform_hash

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_KINDS = "png, jpg, jpeg or webp"


def _pair(size: Any) -> Any:
    return list(size) if isinstance(size, tuple) else size


Side = Annotated[int, Field(ge=1)]
Root = Annotated[
    str,
    BeforeValidator(absolute_path),
    Field(min_length=1, description="the folder; its subfolders are the classes"),
]
Size = Annotated[
    Side | Annotated[list[Side], Field(min_length=2, max_length=2)],
    BeforeValidator(_pair),
    Field(description="side of square images, or [height, width]"),
]


@dataclass(frozen=True)
class Listing:
    """What a folder holds: class names, and per split the paths below the root with their labels."""

    names: tuple[str, ...]
    splits: dict[Split, list[tuple[str, int]]]


class ImageFolder(Dataset):
    """Pictures in a folder, of any size, cropped to the centre and resized.

    - Subfolders of `root` are classes, sorted by name; pictures count at any depth below them. Without
      subfolders the pictures directly in `root` form a set without classes. Pictures beside class folders are
      an error, and so is a class folder without pictures.
    - png, jpg, jpeg and webp in any case; other files, and names that begin with a dot, are passed over.
      Whatever else has such a name counts as a picture (a link to nowhere, a pipe): it is missed by name at
      reading, not in silence.
    - Links are followed; one to a folder above itself is passed over, since all it holds is there already.
    - `read` decodes as `lapflow.data.picture` says: EXIF orientation applied, transparency on white, 16 bits
      to 8, grey or colour to `channels`, ADM's crop and resize.
    - A picture is in the test split when a hash of its path below `root` is less than `held_out`, so the
      split does not change when others are added.

    Nothing is read at construction. The folder is listed once, when first needed. With `num_classes` given, a
    model can be built where the pictures are not: `shape`, `num_classes` and `class_names` ('0', '1', ...)
    then answer without the folder, and reading raises `DataError`.
    """

    def __init__(
        self,
        *,
        root: Root,
        size: Size = 64,
        channels: Annotated[Channels, Field(description="1 grey, 3 colour")] = 3,
        num_classes: Annotated[
            int | None, Field(ge=0, description="subfolders, if known; checked at reading")
        ] = None,
        held_out: Annotated[
            float, Field(ge=0, lt=1, description="share of the images in the test split")
        ] = 0.0,
    ) -> None:
        self.root = Path(root)
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.channels = channels
        self.held_out = held_out
        self._given = num_classes

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    @property
    def num_classes(self) -> int:
        return len(self.listing.names) if self._given is None else self._given

    @property
    def class_names(self) -> tuple[str, ...]:
        if self._given is not None and not self.root.exists():
            return tuple(str(label) for label in range(self._given))
        return self.listing.names

    def size(self, split: Split) -> int:
        return len(self.listing.splits[split])

    def read(self, split: Split, index: int) -> Sample:
        name, label = self._entry(split, index)
        image = read_picture(self.root / name, (self.height, self.width), self.channels)
        return Sample(image, {"label": label} if self.num_classes else {})

    def contents(self, split: Split) -> dict[str, int | str]:
        """The sizes of the files by their paths below `root`, -1 for what cannot be read: one `stat` each."""
        return {name: _size(f"{self.root}/{name}") for name, _ in self.listing.splits[split]}

    def name(self, split: Split, index: int) -> str:
        """The path below `root`, with forward slashes."""
        return self._entry(split, index)[0]

    def _entry(self, split: Split, index: int) -> tuple[str, int]:
        entries = self.listing.splits[split]
        if not 0 <= index < len(entries):
            raise DataError(
                f"the {split} split has no image {index}",
                where=str(self.root),
                expected=f"0 <= index < {len(entries)}",
            )
        return entries[index]

    @functools.cached_property
    def listing(self) -> Listing:
        """The folder's content, listed at the first call. Raises `DataError` where it is not as above."""
        try:
            names, entries = list_folder(self.root)
        except OSError as error:
            raise DataError(
                "the image folder cannot be listed",
                where=printable(str(error.filename or self.root)),
                got=error.strerror or error,
                remedy="check the folder's permissions and its disk",
            ) from error
        if self._given is not None and self._given != len(names):
            raise DataError(
                f"the folder does not have {self._given} classes",
                where=str(self.root),
                got=f"{len(names)} subfolders" + (f": {_some(names)}" if names else ""),
                expected=f"num_classes={self._given}",
                remedy=f"set num_classes={len(names)}, or leave it out",
            )
        splits: dict[Split, list[tuple[str, int]]] = {"train": [], "test": []}
        for name, label in entries:
            splits["test" if uniform_hash("folder", name) < self.held_out else "train"].append((name, label))
        return Listing(names, splits)


def list_folder(root: Path) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """(class names, [(path below root with forward slashes, label)]), both sorted. Raises `DataError`."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(
            f"the image folder {what}", where=str(root), remedy="set data.root to a folder of images"
        )
    children, above = _children(root), frozenset({_identity(root)})
    classes = [child for child in children if _is_folder(child) and _identity(child) not in above]
    loose = [child.name for child in children if _is_picture(child)]
    if classes and loose:
        raise DataError(
            "pictures lie beside class folders, so their class is unknown",
            where=str(root),
            got=f"{len(loose)} loose pictures ({_some(loose)}) and {len(classes)} subfolders "
            f"({_some([c.name for c in classes])})",
            expected="either class folders only, or pictures only",
            remedy="move the loose pictures into a class folder, or name another root",
        )
    if not classes and not loose:
        others = f"{len(children)} other files ({_some([c.name for c in children])})"
        raise DataError(
            "the image folder holds no pictures",
            where=str(root),
            got=others if children else "an empty folder",
            expected=f"{_KINDS} files, or one subfolder of them per class",
            remedy="check data.root",
        )
    if not classes:
        return (), [(name, 0) for name in loose]
    entries = []
    for label, folder in enumerate(classes):
        pictures = list(_pictures_below(root, folder.name, above))
        if not pictures:
            raise DataError(
                "a class folder holds no pictures",
                where=printable(folder.path),
                expected=f"at least one {_KINDS} file: each subfolder of {root} is a class",
                remedy="fill it, or remove it",
            )
        entries += [(name, label) for name in pictures]
    return tuple(folder.name for folder in classes), entries


def _pictures_below(root: Path, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Paths below `root` of the pictures at any depth in `folder`, sorted; `above` are folders that hold it.

    A stack and no recursion: a path may be deeper than Python's calls.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]] | None]] = [(folder, above)]
    while waiting:
        name, above_it = waiting.pop()
        if above_it is None:
            yield name
        elif (identity := _identity(root / name)) not in above_it:
            for child in reversed(_children(root / name)):
                if _is_folder(child):
                    waiting.append((f"{name}/{child.name}", above_it | {identity}))
                elif _is_picture(child):
                    waiting.append((f"{name}/{child.name}", None))


def _children(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name, hidden ones left out; their kind takes no further call."""
    with os.scandir(folder) as found:
        seen = [child for child in found if not child.name.startswith(".")]
    return sorted(seen, key=lambda child: child.name)


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a link to itself, or to where we may not look
        return False


def _is_picture(child: os.DirEntry[str]) -> bool:
    return child.name.lower().endswith(SUFFIXES) and not _is_folder(child)


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except OSError:  # a link to nowhere, which reading misses by name
        return -1


def _identity(folder: Path | os.DirEntry[str]) -> tuple[int, int]:
    """What makes a folder the same one by whatever links it was reached."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _some(names: Sequence[str], max_names: int = 3) -> str:
    return printable(", ".join(names[:max_names])) + (", ..." if len(names) > max_names else "")
