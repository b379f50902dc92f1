"""From YAML to a checked `Config`, and back: load, resolve, write, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from lapflow.config.layers import merge, read_overrides, read_source, recipes
from lapflow.config.problems import explain_problems
from lapflow.config.schema import Config, component_defaults
from lapflow.config.yaml12 import Layer, write_yaml
from lapflow.core.errors import ConfigError
from lapflow.util.digest import difference

__all__ = ["difference", "dump_yaml", "file_schema", "load_config", "recipes", "resolved"]

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


def _refuse_first_edition(values: Mapping[str, Any]) -> None:
    def has(path: str) -> bool:
        section, key = path.split(".")
        return isinstance(values.get(section), Mapping) and key in values[section]

    if found := [old for old in RENAMED if has(old)]:
        raise ConfigError(
            "a config of lapflow's first edition, whose runs the second does not read",
            got=", ".join(found),
            expected=", ".join(RENAMED[old] for old in found),
            remedy="write the new keys (CHANGELOG.md lists them); a run must be trained anew",
        )


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
