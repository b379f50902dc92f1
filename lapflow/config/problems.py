"""What pydantic found wrong with a config, as one error for the user: the key, where it stands, what is
near."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

from lapflow.config.schema import component_kinds, section_at
from lapflow.config.yaml12 import KeyPath, Layer
from lapflow.core.component import explain, first_problem
from lapflow.core.errors import ConfigError, LapflowError
from lapflow.plugins.registry import config_model


def explain_problems(error: pydantic.ValidationError, layer: Layer) -> LapflowError:
    """The first problem of `error`, unknown keys before others; the alternatives of a union count as one."""
    first = first_problem(error, layer.values)
    path = tuple(str(part) for part in first["loc"])
    place = _place(path, layer) if path else None
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, LapflowError):
        raised.where = _joined(place, raised.where)
        if path:
            raised.what = f"{'.'.join(path)}: {raised.what}"
        return raised
    schema, owner = _schema_at(path, layer.values)
    if schema is section_at(path) and first["type"] not in ("extra_forbidden", "missing"):
        owner = "the config"  # the path names the section already
    found = explain({**first, "loc": path}, schema, owner)
    if first["type"] == "model_type":
        found = ConfigError(
            f"{'.'.join(path)} is a section",
            got=found.got,
            expected=f"a mapping with keys of {', '.join(section_at(path).model_fields)}",
        )
    found.where = place
    return found


def _place(path: KeyPath, layer: Layer) -> str | None:
    """The nearest place known: of the key, or of what should hold it."""
    for length in range(len(path), -1, -1):
        if path[:length] in layer.origins:
            return layer.origins[path[:length]]
    return None


def _joined(place: str | None, inner: str | None) -> str | None:
    return f"{place} ({inner})" if place and inner else place or inner


def _schema_at(path: KeyPath, values: Mapping[str, Any]) -> tuple[type[pydantic.BaseModel], str]:
    """The model whose key is wrong, and what to call it: a component with its name, a section, or the
    config."""
    for at, kind in component_kinds().items():
        if path[: len(at)] == at and len(path) > len(at):
            spec: Any = values
            for part in at:
                spec = spec[part]
            name = spec if isinstance(spec, str) else spec["name"]
            return config_model(kind, name), f"the {kind} {name!r}"
    section = section_at(path)
    depth = next(
        (
            n
            for n in range(len(path), 0, -1)
            if section_at(path[:n]) is section and section_at(path[: n - 1]) is not section
        ),
        0,
    )
    return section, ".".join(path[:depth]) or "the config"
