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
Nodes = tuple[yaml.Node, ...]

_TAG = "tag:yaml.org,2002:"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_PLAIN = (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own name; the YAML 1.1 ones are not inherited


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or 1.2 would not read as a string."""


for _name, _pattern, _first in _PLAIN:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), _first)


@dataclass
class Layer:
    """Values of a config, and the place each key and leaf came from."""

    values: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)


def read_yaml(text: str, name: str) -> Layer:
    """The mapping in `text`, a file called `name`. Raises `ConfigError` with file and line."""
    reader = _Reader(name)
    values = reader.parse(text, empty={})
    if not isinstance(values, dict):
        raise ConfigError(
            "a config is a mapping of keys to values", got=type(values).__name__, where=f"{name}:1"
        )
    return Layer(values, reader.origins)


def read_value(text: str, name: str) -> Any:
    """One value, such as `[0, 0.2]`, by the same rules."""
    return _Reader(name, with_lines=False).parse(text)


def write_yaml(values: dict[str, Any]) -> str:
    """YAML that `read_yaml` reads back as the same values; innermost mappings and lists on one line."""
    text: str = yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True
    )
    return text


@dataclass
class _Reader:
    """Turns YAML nodes into values and notes their places: the `name` of the text, and the line."""

    name: str
    with_lines: bool = True
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def parse(self, text: str, empty: Any = None) -> Any:
        """The value of a whole text; `empty` if it holds none."""
        try:
            node = yaml.compose(text, Loader=_Loader)
        except yaml.YAMLError as error:
            got, where = getattr(error, "problem", None) or str(error), self.name
            if context := getattr(error, "context", None):
                got = f"{got}, {context}"
            if self.with_lines and (mark := getattr(error, "problem_mark", None)):
                where = f"{self.name}:{mark.line + 1}, column {mark.column + 1}"
            raise ConfigError("this is not valid YAML", got=got, where=where) from None
        return empty if node is None else self.read(node, ())

    def read(self, node: yaml.Node, path: KeyPath, within: Nodes = ()) -> Any:
        """The value of a node at `path`, and `within` others."""
        if any(node is other for other in within):
            raise ConfigError("a YAML alias holds itself", where=self.place(node))
        self.origins.setdefault(path, self.place(node))
        within = (*within, node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path, within)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.read(item, (*path, str(i)), within) for i, item in enumerate(node.value)]
        raise self.foreign(node)

    def place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}" if self.with_lines else self.name

    def foreign(self, node: yaml.Node) -> ConfigError:
        return ConfigError(
            "a YAML tag that configs do not have",
            got=node.tag,
            expected="plain values, lists, mappings",
            where=self.place(node),
        )

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, within: Nodes) -> dict[str, Any]:
        out: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            where = self.place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError("a key must be a name", got="a mapping or a list", where=where)
            key = str(key_node.value)
            if key in out:
                raise ConfigError(
                    f"the key {key!r} is given twice",
                    got=f"first in line {lines[key]}",
                    expected="one value",
                    where=where,
                )
            lines[key] = key_node.start_mark.line + 1
            self.origins[(*path, key)] = where
            out[key] = self.read(value_node, (*path, key), within)
        return out

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        try:
            if kind == "str":
                return text
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
        raise self.foreign(node)
