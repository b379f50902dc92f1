"""YAML as lapflow reads it: the core schema of YAML 1.2, duplicate keys refused, and where everything came
from.

PyYAML follows YAML 1.1, in which `1e-5` is a string, `on` a boolean and `12:30` a number. Here `1e-5` is a
float, only true and false are booleans, and the rest are strings. Nothing but mappings, lists and scalars is
ever made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from lapflow.core.errors import ConfigError

KeyPath = tuple[str, ...]

_TAG = "tag:yaml.org,2002:"
_PLAIN = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    (
        "float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own name; the YAML 1.1 ones are not inherited


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or 1.2 would not read as a string."""


for _name, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)
    _Dumper.add_implicit_resolver(_TAG + _name, _pattern, _first)


@dataclass
class Layer:
    """Values of a config, and the place each key and leaf came from."""

    values: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)


def read_yaml(text: str, name: str) -> Layer:
    """The mapping in `text`, a file called `name`. Raises `ConfigError` with file and line."""
    layer = Layer({})
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            values = _Reader(name, layer.origins).read(node, ())
            if not isinstance(values, dict):
                raise ConfigError(
                    "a config is a mapping of keys to values", got=type(values).__name__, where=f"{name}:1"
                )
            layer.values = values
    except yaml.YAMLError as error:
        raise _syntax_error(error, name) from None
    return layer


def read_value(text: str, name: str) -> Any:
    """One value, such as `[0, 0.2]`, by the same rules."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _Reader(name, {}, with_lines=False).read(node, ())
    except yaml.YAMLError as error:
        raise _syntax_error(error, name, with_lines=False) from None


def write_yaml(values: dict[str, Any]) -> str:
    """YAML that `read_yaml` reads back as the same values; innermost mappings and lists on one line."""
    text: str = yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True
    )
    return text


class _Reader:
    """Turns YAML nodes into values and notes their lines."""

    def __init__(self, name: str, origins: dict[KeyPath, str], with_lines: bool = True) -> None:
        self.name, self.origins, self.with_lines = name, origins, with_lines
        self.open: list[yaml.Node] = []

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        if any(node is other for other in self.open):
            raise ConfigError("a YAML alias holds itself", where=self.place(node))
        self.open.append(node)
        try:
            self.origins.setdefault(path, self.place(node))
            if not isinstance(node, yaml.ScalarNode) and node.tag not in (_TAG + "map", _TAG + "seq"):
                raise self.foreign(node)
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, (*path, str(i))) for i, item in enumerate(node.value)]
            return self._scalar(node)
        finally:
            self.open.pop()

    def place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}" if self.with_lines else self.name

    def foreign(self, node: yaml.Node) -> ConfigError:
        return ConfigError(
            "a YAML tag that configs do not have",
            got=node.tag,
            expected="plain values, lists, mappings",
            where=self.place(node),
        )

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        out: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(
                    "a key must be a name", got="a mapping or a list", where=self.place(key_node)
                )
            key = str(key_node.value)
            if key in out:
                raise ConfigError(
                    f"the key {key!r} is given twice",
                    got=f"first in line {lines[key]}",
                    expected="one value",
                    where=self.place(key_node),
                )
            lines[key] = key_node.start_mark.line + 1
            self.origins[(*path, key)] = self.place(key_node)
            out[key] = self.read(value_node, (*path, key))
        return out

    def _scalar(self, node: yaml.Node) -> Any:
        kind, text = node.tag.removeprefix(_TAG), str(node.value)
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (KeyError, ValueError):
            raise ConfigError(
                f"this is not a value of type {kind}", got=repr(text), where=self.place(node)
            ) from None
        if kind == "str":
            return text
        raise self.foreign(node)


def _syntax_error(error: yaml.YAMLError, name: str, with_lines: bool = True) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    where = f"{name}:{mark.line + 1}, column {mark.column + 1}" if mark is not None and with_lines else name
    return ConfigError("this is not valid YAML", got=what + (f", {context}" if context else ""), where=where)
