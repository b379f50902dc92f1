"""From YAML to a checked `Config`, and back: read the layers (the defaults, the `base:` and its own base, the
file, the command line), merge them, check, explain what is wrong; write."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pydantic

from lapflow.config.schema import Config, component_defaults, component_kinds, section_at
from lapflow.config.yaml12 import KeyPath, Layer, read_value, read_yaml, write_yaml
from lapflow.core.component import explain, first_problem
from lapflow.core.errors import ConfigError, LapflowError, suggest
from lapflow.plugins.registry import config_model

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


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """A config from a recipe's name, a YAML file or a mapping, with dotted `key=value` overrides.

    Raises `ConfigError` that says what is wrong, where it stands (file and line, or the override), and the
    nearest name.
    """
    layer = merge(Layer(component_defaults()), read_source(source))
    for override in read_overrides(overrides):
        layer = merge(layer, override)
    _refuse_first_edition(layer.values)
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
