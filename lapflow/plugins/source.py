"""Where a component comes from: a distribution and a path 'module:Class', imported when it is loaded and not
before."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint

from lapflow.core.component import Component
from lapflow.core.errors import LapflowError, PluginError
from lapflow.plugins.kinds import find_kind

OWN = "lapflow"
SESSION = "this session"


@dataclass(frozen=True)
class Source:
    """A component that can be named: by lapflow itself, by an installed `distribution`, or registered in this
    session."""

    kind: str
    name: str
    path: str
    distribution: str
    version: str
    registered: type[Component] | None = None

    @classmethod
    def of_entry_point(cls, kind: str, entry: EntryPoint) -> Source:
        dist = entry.dist
        return cls(
            kind,
            entry.name,
            entry.value,
            dist.name if dist else "unknown",
            dist.version if dist else "unknown",
        )

    @property
    def label(self) -> str:
        """What an error calls it: distribution, version and path."""
        return f"{self.distribution} {self.version}".strip() + f", {self.path}"

    def load(self) -> type[Component]:
        """Import the class and check it against its kind's contract. Raises `PluginError` with the cause."""
        cls = self.registered or self._import()
        check_contract(self.kind, cls, self.name, self.label)
        return cls

    def _import(self) -> type[Component]:
        module, _, attribute = self.path.partition(":")
        try:
            found = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except LapflowError:
            raise
        except (
            Exception,
            SystemExit,
        ) as error:  # whatever a plugin's module raises at import is the cause to show
            raise PluginError(
                f"the {self.kind} {self.name!r} cannot be loaded",
                got=f"{type(error).__name__}: {error}",
                where=self.label,
                remedy=f"fix or reinstall {self.distribution}, or name another {self.kind}",
            ) from error
        return found  # type: ignore[return-value]  # anything: `check_contract` looks


def check_contract(kind: str, cls: object, name: str, label: str) -> None:
    """Raises `PluginError` unless `cls` is a subclass of its kind's contract and implements all of it."""
    contract = find_kind(kind).load_contract()
    what = f"the {kind} {name!r} does not keep its contract"
    if not (isinstance(cls, type) and issubclass(cls, contract)):
        kin = f"the class {cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else repr(cls)
        raise PluginError(
            what, got=kin, expected=f"a subclass of {contract.__module__}.{contract.__name__}", where=label
        )
    missing = sorted(n for n in dir(cls) if getattr(getattr(cls, n, None), "__isabstractmethod__", False))
    if missing:
        raise PluginError(
            what,
            got=f"{cls.__qualname__} without {', '.join(missing)}",
            expected=f"all of {contract.__name__}",
            where=label,
        )


def canonical(distribution: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
