"""Components by kind and name: built in, installed as plugins (entry points), or registered in this session.

Nothing is imported before it is named. Precedence: built-ins, then what this session registered, then
plugins. Two plugins with one name must be told apart as `name@distribution`, which is also the way to a
plugin behind a built-in.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar, overload

import pydantic

from lapflow.core.component import Component, validate
from lapflow.core.errors import ConfigError, PluginError, suggest
from lapflow.plugins.builtin import BUILTIN
from lapflow.plugins.kinds import KINDS, find_kind
from lapflow.plugins.source import OWN, SESSION, Source, canonical, check_contract

C = TypeVar("C", bound=type[Component])
Status = Literal["ok", "shadowed", "clash", "broken"]

_registered: dict[tuple[str, str], Source] = {}


class PluginWarning(UserWarning):
    """A plugin that is installed but not the one that its name gives."""


@dataclass(frozen=True)
class Listed:
    """A source as `sources` lists it: `ok`; `shadowed` by a built-in or a registered one; in a `clash`;
    `broken` by a `cause`."""

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
        """The component. `context` is what its surroundings offer; it takes of it what its `__init__`
        names."""
        cls = get(self.kind, self.name)
        unknown = set(context) - set(find_kind(self.kind).load_contract().context)
        assert not unknown, f"the contract of a {self.kind} names no context {sorted(unknown)}"
        return cls.of(self.arguments, context)


def create(kind: str, spec: Mapping[str, Any] | str, **context: Any) -> Any:
    """Make a component from a `Spec`, from `{name: ..., **arguments}` or from a bare name, in its
    `context`."""
    if not isinstance(spec, Spec):
        name, arguments = split_name(kind, spec)
        cls = get(kind, name)
        spec = Spec(kind, name, validate(cls.schema(), arguments, f"{kind} {cls.__name__}"))
    return spec.build(**context)


def split_name(kind: str, value: Any) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of `{name: ..., **arguments}` or a bare name. Raises `ConfigError` for anything
    else."""
    arguments = {"name": value} if isinstance(value, str) else value
    if not isinstance(arguments, Mapping):
        raise ConfigError(
            f"a {kind} is a name, or a mapping with a name",
            got=repr(value),
            expected=suggest("", names(kind)),
        )
    name = arguments.get("name")
    if not isinstance(name, str):
        raise ConfigError(
            f"this {kind} has no name", got=repr(dict(arguments)), expected=suggest("", names(kind))
        )
    return name, {key: item for key, item in arguments.items() if key != "name"}


def config_model(kind: str, name: str) -> type[pydantic.BaseModel]:
    """The strict pydantic model of a component's arguments."""
    return get(kind, name).schema()


def find_source(kind: str, name: str) -> Source:
    """The one source that `name` or `name@distribution` stands for. Raises `ConfigError` where there is none
    or more than one."""
    plain, _, distribution = name.partition("@")
    found = [source for source in _all(kind) if source.name == plain]
    if distribution:
        found = [source for source in found if canonical(source.distribution) == canonical(distribution)]
        if not found:
            offered = [
                f"{source.name}@{source.distribution}"
                for source in _all(kind)
                if source.distribution not in (OWN, SESSION)
            ]
            raise ConfigError(
                f"no installed distribution offers this {kind}",
                got=repr(name),
                expected=suggest(name, [*offered, *names(kind)]),
            )
        return found[0]
    if not found:
        raise ConfigError(
            f"there is no {kind} of this name",
            got=repr(name),
            expected=suggest(plain, names(kind)),
            remedy="`lapflow components` lists what is installed",
        )
    if found[0].distribution in (OWN, SESSION):
        for hidden in found[1:]:
            _warn_once(kind, plain, found[0].distribution, hidden.distribution)
        return found[0]
    if len(found) > 1:
        raise _clash(kind, plain, found)
    return found[0]


def sources(kind: str, *, load: bool = False) -> list[Listed]:
    """Everything installed of a kind, by name. `load` imports each one, so that broken ones are known."""
    return [_listed(source, load) for source in sorted(_all(kind), key=lambda source: source.name)]


def distributions_used(config: Mapping[str, Any]) -> dict[str, str]:
    """{distribution: version} of the plugins that a resolved config names; built-ins apart."""
    found = [find_source(kind, name) for kind, name in components_named(config)]
    return {
        source.distribution: source.version for source in found if source.distribution not in (OWN, SESSION)
    }


def components_named(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(kind, name) of every component in a resolved config, at any depth: each stands as {name: ...} under
    its kind's key."""
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
    """The plugins of a kind on `sys.path`, which is the key: reading the metadata of every distribution takes
    a while."""
    found = (Source.of_entry_point(kind, entry) for entry in entry_points(group=group))
    return tuple(source for source in found if source.distribution != OWN)


def _listed(source: Source, load: bool) -> Listed:
    same = [other for other in _all(source.kind) if other.name == source.name]
    if source != same[0] and same[0].distribution in (OWN, SESSION):
        return Listed(
            source,
            "shadowed",
            f"{same[0].distribution} has this name; write {source.name}@{source.distribution}",
        )
    if load:
        try:
            source.load()
        except ValueError as error:
            return Listed(source, "broken", str(getattr(error, "got", None) or error))
    if source.distribution not in (OWN, SESSION) and len(same) > 1:
        return Listed(source, "clash", f"write {source.name}@{source.distribution}")
    return Listed(source, "ok")


def _clash(kind: str, name: str, found: list[Source]) -> ConfigError:
    return ConfigError(
        f"several installed distributions offer the {kind} {name!r}",
        got=", ".join(f"{source.distribution} {source.version}" for source in found),
        expected=" or ".join(f"{name}@{source.distribution}" for source in found),
    )


@functools.cache
def _warn_once(kind: str, name: str, winner: str, hidden: str) -> None:
    warnings.warn(
        f"the {kind} {name!r} of {hidden} is hidden by the one of {winner}; write {name}@{hidden} for it",
        PluginWarning,
        stacklevel=4,
    )
