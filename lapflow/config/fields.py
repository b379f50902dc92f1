"""The type of a config field that names a component."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pydantic
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from lapflow.core.errors import LapflowError
from lapflow.plugins.registry import Spec, config_model, names, split_name


@dataclass(frozen=True)
class Named:
    """Marks a `Spec` field as a component of `kind`: {name: ..., **arguments} or a bare name, checked once,
    by the component's own schema."""

    kind: str

    def resolve(self, value: Any) -> Spec:
        """The component with its arguments checked and its defaults filled in."""
        if isinstance(value, Spec):
            return value
        name, arguments = split_name(self.kind, value)
        return Spec(self.kind, name, config_model(self.kind, name).model_validate(arguments))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.resolve, serialization=core_schema.plain_serializer_function_ser_schema(dict)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """One alternative per component that loads; a plugin that does not is left out with a warning."""
        alternatives: list[JsonSchemaValue] = []
        bare: list[str] = []
        for name in names(self.kind):
            try:
                arguments = config_model(self.kind, name).model_json_schema()
            except (LapflowError, pydantic.errors.PydanticUserError) as error:
                warnings.warn(f"left out of the schema: {str(error).splitlines()[0]}", stacklevel=2)
                continue
            alternatives.append(_with_name(name, arguments))
            if not arguments.get("required"):
                bare.append(name)
        # A name may also be `name@distribution`, which no list of constants holds.
        return {"anyOf": [{"enum": bare}, {"type": "string", "pattern": "@"}, {"oneOf": alternatives}]}


def _with_name(name: str, arguments: JsonSchemaValue) -> JsonSchemaValue:
    """A component's JSON Schema with its name beside its arguments."""
    plain = _inlined(arguments, arguments.get("$defs", {}))
    properties = {"name": {"const": name}, **plain.get("properties", {})}
    return {
        **plain,
        "title": name,
        "type": "object",
        "properties": properties,
        "required": ["name", *plain.get("required", [])],
    }


def _inlined(node: Any, definitions: JsonSchemaValue) -> Any:
    """`node` with references replaced by what they stand for: inside a larger schema `#/$defs` is another
    place."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].removeprefix("#/$defs/")], definitions)
    return {key: _inlined(value, definitions) for key, value in node.items() if key != "$defs"}
