"""From YAML to a checked `Config`, and back: read the layers (the defaults, the `base:` and its own base, the
file, the command line), merge them, check, explain what is wrong; write.

YAML is read by the core schema of YAML 1.2. PyYAML follows YAML 1.1, in which `1e-5` is a string, `on` a
boolean and `12:30` a number. Here `1e-5` is a float, only true and false are booleans, and the rest are
strings. Nothing but mappings, lists and scalars is ever made, and duplicate keys are refused.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pydantic
import yaml

from lapflow.config.schema import Config, component_defaults, component_kinds, section_at
from lapflow.core.component import explain, first_problem
from lapflow.core.dataset import absolute_path, path_arguments
from lapflow.core.errors import ConfigError, LapflowError, suggest
from lapflow.plugins.registry import config_model

KeyPath = tuple[str, ...]

RENAMED = {
    "flow.view": "flow.representation",
    "training.betas": "training.optimizer.betas",
    "training.clip": "training.grad_clip_norm",
    "training.label_drop": "training.condition_dropout",
    "training.most_skipped": "training.max_skipped",
    "training.recompute": "training.activation_checkpointing",
    "training.weight_decay": "training.optimizer.weight_decay",
}
"""Keys of the first edition, by which its configs and runs are known, and those of the second."""


@dataclass
class Layer:
    """Values of a config, and the place each key and leaf came from."""

    values: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """A config from a recipe's name, a YAML file or a mapping, with dotted `key=value` overrides.

    A relative path of its data set is one from the folder of the file in which it stands, or where no file
    says it (the command line, a mapping, a recipe) from the working directory; the config holds it absolute.

    Raises `ConfigError` that says what is wrong, where it stands (file and line, or the override), and the
    nearest name.
    """
    layer = merge(Layer(component_defaults()), read_source(source))
    for override in read_overrides(overrides):
        layer = merge(layer, override)
    _refuse_first_edition(layer.values)
    _place_data(layer)
    try:
        config = Config.model_validate(layer.values)
    except pydantic.ValidationError as error:
        raise explain_problems(error, layer) from None
    config._origins = layer.origins
    return config


def recipes() -> list[str]:
    """The names of the recipes that come with lapflow."""
    files = resources.files("lapflow.recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def read_source(
    source: str | Path | Mapping[str, Any], beside: Path | None = None, seen: tuple[str, ...] = ()
) -> Layer:
    """A recipe, a file or a mapping, merged over what its `base:` names. `beside` is the folder of the file
    that names it."""
    if isinstance(source, Mapping):
        layer, folder, name = Layer({str(k): v for k, v in source.items()}), beside, "the mapping given"
    else:
        layer, folder, name = _read_named(source, beside)
    if name in seen:
        raise ConfigError(
            "configs name each other as their base",
            got=" -> ".join([*seen, name]),
            where=layer.origins.get(("base",)),
        )
    base = layer.values.pop("base", None)
    where = layer.origins.pop(("base",), None)
    if base is None:
        return layer
    if not isinstance(base, str):
        raise ConfigError(
            "base names one recipe or one file", got=repr(base), expected=suggest("", recipes()), where=where
        )
    try:
        below = read_source(base, folder, (*seen, name))
    except ConfigError as error:
        error.where = error.where or where
        raise
    return merge(below, layer)


def _read_named(source: str | Path, beside: Path | None) -> tuple[Layer, Path, str]:
    """(layer, the folder its own base is relative to, its name)."""
    text = str(source)
    path = Path(source).expanduser()
    path = path if beside is None else beside / path
    is_file = isinstance(source, Path) or text.endswith((".yaml", ".yml")) or "/" in text
    if not is_file and text in recipes():
        content = (resources.files("lapflow.recipes") / f"{text}.yaml").read_text(encoding="utf-8")
        return read_yaml(content, f"recipe {text}"), Path(), f"recipe {text}"
    if not is_file and not path.is_file():
        raise ConfigError(
            "there is no recipe of this name",
            got=repr(text),
            expected=suggest(text, recipes()),
            remedy="name a recipe, or a file by a path that ends in .yaml",
        )
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the config file cannot be read", got=f"{path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    return read_yaml(content, str(path)), path.parent, str(path.resolve())


def merge(below: Layer, above: Layer) -> Layer:
    """`above` over `below`: mappings merge deeply, everything else is replaced; a component of another name,
    or one given by its bare name, replaces the one below."""
    kinds = component_kinds()
    values, origins, joined = dict(below.values), dict(below.origins), set[KeyPath]()

    def put(into: dict[str, Any], new: Mapping[str, Any], at: KeyPath) -> None:
        for key, value in new.items():
            path = (*at, key)
            old = into.get(key)
            if isinstance(old, str) and path in kinds:
                old = {"name": old}
            if (
                isinstance(value, Mapping)
                and isinstance(old, Mapping)
                and (path not in kinds or value.get("name", old.get("name")) == old.get("name"))
            ):
                joined.add(path)
                into[key] = dict(old)
                put(into[key], value, path)
            else:
                for known in [known for known in origins if known[: len(path)] == path]:
                    del origins[known]
                into[key] = value

    put(values, above.values, ())
    # A mapping that both have stays where it was; its keys and leaves come from where they were given last.
    last = {path: where for path, where in above.origins.items() if path not in joined or path not in origins}
    return Layer(values, origins | last)


def read_overrides(overrides: Sequence[str]) -> list[Layer]:
    """One layer per `key=value`, those that name a component before those that set its arguments."""
    layers: list[tuple[float, Layer]] = []
    for text in overrides:
        where = f"command line: {text}"
        key, equals, value = text.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path):
            raise ConfigError(
                "an override is not key=value",
                got=repr(text),
                expected="dotted key=value, such as training.steps=100",
                where=where,
            )
        values: Any = read_value(value, where)
        for part in reversed(path):
            values = {part: values}
        rank = len(path) - (0.5 if path[-1] == "name" else 0)
        layers.append((rank, Layer(values, {path[:length]: where for length in range(1, len(path) + 1)})))
    return [layer for _, layer in sorted(layers, key=lambda row: row[0])]


def _place_data(layer: Layer) -> None:
    """Make the data set's relative paths that stand in a file absolute, below that file's folder."""
    data = layer.values.get("data")
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        return
    with suppress(LapflowError):  # an unknown name is told of when the config is checked
        for key in data.keys() & set(path_arguments(config_model("dataset", data["name"]))):
            where = layer.origins.get(("data", key))
            if where is not None and not where.startswith(("command line: ", "recipe ")):
                placed = absolute_path(data[key], Path(where.rpartition(":")[0]).parent)
                data = layer.values["data"] = {**data, key: placed}


def _refuse_first_edition(values: Mapping[str, Any]) -> None:
    given = {
        f"{section}.{key}" for section, held in values.items() if isinstance(held, Mapping) for key in held
    }
    if found := [old for old in RENAMED if old in given]:
        raise ConfigError(
            "a config of lapflow's first edition, whose runs the second does not read",
            got=", ".join(found),
            expected=", ".join(RENAMED[old] for old in found),
            remedy="write the new keys (CHANGELOG.md lists them); a run must be trained anew",
        )


def explain_problems(error: pydantic.ValidationError, layer: Layer) -> LapflowError:
    """The first problem of `error`, unknown keys before others, as one error for the user: the key, where it
    stands (or what should hold it), what is near; the alternatives of a union count as one."""
    first = first_problem(error, layer.values)
    path = tuple(str(part) for part in first["loc"])
    places = (layer.origins.get(path[:length]) for length in range(len(path), -1, -1))
    place = next(filter(None, places), None) if path else None
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, LapflowError):
        raised.where = f"{place} ({raised.where})" if place and raised.where else place or raised.where
        if path:
            raised.what = f"{'.'.join(path)}: {raised.what}"
        return raised
    at, section = section_at(path)
    schema, owner = _component_at(path, layer.values) or (section, ".".join(at) or "the config")
    if schema is section and first["type"] not in ("extra_forbidden", "missing"):
        owner = "the config"  # the path names the section already
    found = explain({**first, "loc": path}, schema, owner)
    if first["type"] == "model_type":
        found = ConfigError(
            f"{'.'.join(path)} is a section",
            got=found.got,
            expected=f"a mapping with keys of {', '.join(section.model_fields)}",
        )
    found.where = place
    return found


def _component_at(path: KeyPath, values: Mapping[str, Any]) -> tuple[type[pydantic.BaseModel], str] | None:
    """The schema of the component whose argument `path` is, and what to call it; None outside components."""
    for at, kind in component_kinds().items():
        if path[: len(at)] == at and len(path) > len(at):
            spec = functools.reduce(operator.getitem, at, values)
            name = spec if isinstance(spec, str) else spec["name"]
            return config_model(kind, name), f"the {kind} {name!r}"
    return None


def resolved(config: Config) -> dict[str, Any]:
    """The whole config as plain data, every default filled in; `load_config` of it gives an equal config."""
    return config.model_dump(mode="json")


def dump_yaml(config: Config) -> str:
    """The resolved config as YAML."""
    return write_yaml(resolved(config))


def file_schema() -> dict[str, Any]:
    """JSON Schema of a config *file*: as of `Config`, but it may have a `base`, and then leave out what that
    gives."""
    schema = _optional(Config.model_json_schema())
    schema["properties"]["base"] = {
        "type": "string",
        "description": "a recipe or a file to start from",
        "examples": recipes(),
    }
    return schema


def _optional(node: Any) -> Any:
    """`node` without required sections, and with components that may leave their name to the base."""
    if isinstance(node, list):
        return [_optional(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "oneOf" in node and all(
        "const" in option.get("properties", {}).get("name", {}) for option in node["oneOf"]
    ):
        unnamed = {
            "type": "object",
            "not": {"required": ["name"]},
            "description": "arguments of the base's component",
        }
        named = [{**option, "required": ["name"]} for option in node["oneOf"]]
        return {**node, "oneOf": [*named, unnamed]}
    return {key: _optional(value) for key, value in node.items() if key != "required"}


# ---- YAML 1.2, on PyYAML

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
