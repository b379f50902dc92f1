"""Components by kind and name: built in, installed as plugins (entry points), or registered in this session.

Nothing is imported before it is named. Precedence: built-ins, then what this session registered, then
plugins. Two plugins with one name must be told apart as `name@distribution`, which is also the way to a
plugin behind a built-in.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, overload

import pydantic

from lapflow.core.component import Component, validate
from lapflow.core.errors import ConfigError, LapflowError, PluginError, suggest
from lapflow.plugins.kinds import BUILTIN, KINDS, find_kind

C = TypeVar("C", bound=type[Component])
Status = Literal["ok", "shadowed", "clash", "broken"]
OWN = "lapflow"
SESSION = "this session"


@dataclass(frozen=True)
class Source:
    """Where a component comes from: lapflow itself, an installed `distribution`, or `register` in this
    session; and its path 'module:Class', imported when it is loaded and not before."""

    kind: str
    name: str
    path: str
    distribution: str
    version: str
    registered: type[Component] | None = None

    @classmethod
    def of_entry_point(cls, kind: str, entry: EntryPoint) -> Source:
        name, version = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "unknown")
        return cls(kind, entry.name, entry.value, name, version)

    @property
    def plugin(self) -> bool:
        """Whether an installed distribution offers it."""
        return self.distribution not in (OWN, SESSION)

    @property
    def full_name(self) -> str:
        """The name that tells it from others of the same one."""
        return f"{self.name}@{self.distribution}"

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
        except (Exception, SystemExit) as error:
            # Whatever a plugin's module raises at import is the cause to show.
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


_registered: dict[tuple[str, str], Source] = {}


class PluginWarning(UserWarning):
    """A plugin that is installed but not the one that its name gives."""


@dataclass(frozen=True)
class Listed:
    """A source, `ok`, `shadowed` by a built-in or registered one, in a `clash`, or `broken` by `cause`."""

    source: Source
    status: Status
    cause: str = ""


def names(kind: str) -> list[str]:
    """The names of a kind's components, sorted; nothing is imported."""
    return sorted({source.name for source in _all(kind)})


def get(kind: str, name: str) -> type[Component]:
    """The class of the component `name` (or `name@distribution`) of a kind, imported now."""
    return find_source(kind, name).load()


class Spec(dict[str, Any]):
    """A component that was named and checked: its `kind`, its `name`, and its `arguments` as its schema's own
    object, every default filled in. As a mapping it is {name: ..., **arguments} in plain values, name
    first."""

    def __init__(self, kind: str, name: str, arguments: pydantic.BaseModel) -> None:
        super().__init__({"name": name, **arguments.model_dump(mode="json")})
        self.kind, self.name, self.arguments = kind, name, arguments

    def build(self, **context: Any) -> Any:
        """The component. Of the `context` that its surroundings offer it takes what its `__init__` names."""
        cls = get(self.kind, self.name)
        unknown = set(context) - set(find_kind(self.kind).load_contract().context)
        assert not unknown, f"the contract of a {self.kind} names no context {sorted(unknown)}"
        return cls.of(self.arguments, context)


def create(kind: str, spec: Mapping[str, Any] | str, **context: Any) -> Any:
    """Make a component from a `Spec`, `{name: ..., **arguments}` or a bare name, in its `context`."""
    if not isinstance(spec, Spec):
        name, arguments = split_name(kind, spec)
        cls = get(kind, name)
        spec = Spec(kind, name, validate(cls.schema(), arguments, f"{kind} {cls.__name__}"))
    return spec.build(**context)


def split_name(kind: str, value: Any) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of `{name: ..., **arguments}` or a bare name. Raises `ConfigError` for others."""
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, Mapping):
        what = f"a {kind} is a name, or a mapping with a name"
        raise ConfigError(what, got=repr(value), expected=suggest("", names(kind)))
    arguments = dict(value)
    if not isinstance(arguments.get("name"), str):
        what = f"this {kind} has no name"
        raise ConfigError(what, got=repr(arguments), expected=suggest("", names(kind)))
    return arguments.pop("name"), arguments


def config_model(kind: str, name: str) -> type[pydantic.BaseModel]:
    """The strict pydantic model of a component's arguments."""
    return get(kind, name).schema()


def find_source(kind: str, name: str) -> Source:
    """The one source that `name` or `name@distribution` is. Raises `ConfigError` for none or several."""
    plain, _, distribution = name.partition("@")
    every = _all(kind)
    found = [source for source in every if source.name == plain]
    if distribution:
        found = [source for source in found if canonical(source.distribution) == canonical(distribution)]
        if not found:
            offered = [source.full_name for source in every if source.plugin]
            raise ConfigError(
                f"no installed distribution offers this {kind}",
                got=repr(name),
                expected=suggest(name, [*offered, *names(kind)]),
            )
    elif not found:
        raise ConfigError(
            f"there is no {kind} of this name",
            got=repr(name),
            expected=suggest(plain, names(kind)),
            remedy="`lapflow components` lists what is installed",
        )
    elif not found[0].plugin:
        for hidden in found[1:]:
            _warn_once(kind, plain, found[0].distribution, hidden.distribution)
    elif len(found) > 1:
        raise ConfigError(
            f"several installed distributions offer the {kind} {plain!r}",
            got=", ".join(f"{source.distribution} {source.version}" for source in found),
            expected=" or ".join(source.full_name for source in found),
        )
    return found[0]


def sources(kind: str, *, load: bool = False) -> list[Listed]:
    """Everything installed of a kind, by name. `load` imports each one, so that broken ones are known."""
    return [_listed(source, load) for source in sorted(_all(kind), key=lambda source: source.name)]


def distributions_used(config: Mapping[str, Any]) -> dict[str, str]:
    """{distribution: version} of the plugins that a resolved config names; built-ins apart."""
    found = [find_source(kind, name) for kind, name in components_named(config)]
    return {source.distribution: source.version for source in found if source.plugin}


def components_named(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, name) of every component in a resolved config: each {name: ...} under its kind's key."""
    kinds = {kind.key: kind.name for kind in KINDS.values()}
    found = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            if key in kinds and isinstance(value.get("name"), str):
                found.append((kinds[key], value["name"]))
            found += components_named(value)
    return found


@overload
def register(cls: C, *, name: str, kind: str | None = None) -> C: ...
@overload
def register(cls: None = None, *, name: str, kind: str | None = None) -> Callable[[C], C]: ...
def register(cls: Any = None, *, name: str, kind: str | None = None) -> Any:
    """Make a class known by `name` in this session, as a call or a decorator; a second one of the name
    replaces the first.

    The kind is that of its contract. To make it known to others, give its distribution an entry point.
    """
    if cls is None:
        return functools.partial(register, name=name, kind=kind)
    found = kind or getattr(cls, "kind", None)
    if not isinstance(found, str):
        raise PluginError(
            f"{name!r} is no component",
            got=repr(cls),
            expected=f"a subclass of a contract in lapflow.core: {', '.join(KINDS)}",
        )
    path = f"{getattr(cls, '__module__', '?')}:{getattr(cls, '__qualname__', '?')}"
    check_contract(found, cls, name, f"{SESSION}, {path}")
    if "@" in name or not name:
        raise ConfigError("a component's name must not be empty or hold '@'", got=repr(name))
    if name in BUILTIN[found]:
        raise ConfigError(
            f"{name!r} is a built-in {found}", got=path, remedy="register it under another name"
        )
    _registered[found, name] = Source(found, name, path, SESSION, "", cls)
    return cls


def unregister(kind: str, name: str) -> None:
    """Forget what `register` made known."""
    _registered.pop((kind, name), None)


def _all(kind: str) -> list[Source]:
    """Every source of a kind in order of precedence."""
    from lapflow import __version__

    group = find_kind(kind).group
    own = [Source(kind, name, path, OWN, __version__) for name, path in BUILTIN[kind].items()]
    session = [source for (of, _), source in _registered.items() if of == kind]
    return [*own, *session, *_installed(kind, group, tuple(sys.path))]


@functools.cache
def _installed(kind: str, group: str, search_path: tuple[str, ...]) -> tuple[Source, ...]:
    """The plugins of a kind; `sys.path` is the key, as the metadata of every distribution takes a while."""
    found = (Source.of_entry_point(kind, entry) for entry in entry_points(group=group))
    return tuple(source for source in found if source.distribution != OWN)


def _listed(source: Source, load: bool) -> Listed:
    same = [other for other in _all(source.kind) if other.name == source.name]
    if source != same[0] and not same[0].plugin:
        cause = f"{same[0].distribution} has this name; write {source.full_name}"
        return Listed(source, "shadowed", cause)
    if load:
        try:
            source.load()
        except ValueError as error:
            return Listed(source, "broken", str(getattr(error, "got", None) or error))
    if source.plugin and len(same) > 1:
        return Listed(source, "clash", f"write {source.full_name}")
    return Listed(source, "ok")


@functools.cache
def _warn_once(kind: str, name: str, winner: str, hidden: str) -> None:
    warnings.warn(
        f"the {kind} {name!r} of {hidden} is hidden by the one of {winner}; write {name}@{hidden} for it",
        PluginWarning,
        stacklevel=4,
    )
