"""Errors for the user: one screen that says what is wrong, what came, what was expected, how to fix it.

Everything lapflow raises for a user's mistake derives from `LapflowError`, which is a `ValueError`. The
command line prints it without a traceback and exits with code 2. Our own broken invariants are `assert`s.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LapflowError(ValueError):
    """A mistake in what the user gave: `what` is wrong, what was `got`, what was `expected`, the `remedy`."""

    exit_code = 2
    """What the command line ends with."""
    said = False
    """Whether another process of the run says the same, so that this one need not."""

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        remedy: str | None = None,
        where: str | None = None,
    ) -> None:
        self.what, self.got, self.expected, self.remedy, self.where = what, got, expected, remedy, where
        super().__init__(what)

    def __str__(self) -> str:
        rows = [("at", self.where), ("got", self.got), ("expected", self.expected), ("fix", self.remedy)]
        lines = [f"  {name + ':':<10}{value}" for name, value in rows if value is not None]
        return "\n".join([self.what, *lines])


class ConfigError(LapflowError):
    """A config, a component's arguments or a command's options cannot be used."""


class PluginError(ConfigError):
    """A component that is named but cannot be loaded, or does not keep its contract."""


class SizeError(LapflowError):
    """An image size, a number of scales or a patch size that do not fit together."""


class DataError(LapflowError):
    """A data set cannot be read."""


class ImageError(DataError):
    """One image of a data set cannot be read, which says nothing of the others."""


class CheckpointError(LapflowError):
    """A run folder or a checkpoint is missing, corrupt, foreign or in use."""


class LawError(LapflowError):
    """A composition whose sampler would not start, cross or end with the law that training assumes."""


class BackendError(LapflowError):
    """A backend or an optional package that cannot be used here, with the reason."""


class SolverError(LapflowError):
    """An integration that cannot go on: a non-finite field, or a bound on the work."""


def suggest(name: str, choices: Iterable[str]) -> str:
    """The names nearest to `name` among `choices`, for an error's `expected` line."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not near:
        return f"one of: {', '.join(known)}"
    return f"{' or '.join(map(repr, near))} (nearest of: {', '.join(known)})"


def printable(text: str) -> str:
    """`text` on one line for any terminal: line breaks, control and undecodable characters are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
