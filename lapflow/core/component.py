"""Components: ordinary classes whose annotated arguments are their config.

A component's `__init__` arguments, annotated with pydantic `Field` constraints where they have some, *are*
its config schema. `LaplacianPyramid(levels=3)` in a notebook and `{name: laplacian, levels: 3}` in YAML are
checked by the same strict pydantic model, and a component keeps them in `.config`.

What a component gets from its surroundings (band shapes, number of classes) is a fixed set of *context*
arguments per kind, named by the contract's `context`, and stands outside the schema.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import pydantic

from lapflow.core.errors import ConfigError, suggest


class Component:
    """Base of every contract. A subclass of a contract is a component of that contract's `kind`."""

    kind: ClassVar[str]
    context: ClassVar[tuple[str, ...]] = ()
    settled: ClassVar[tuple[str, ...]] = ()
    """Arguments of an inherited `__init__` that this class settles itself, so that they are not its own."""

    config: Mapping[str, Any] = MappingProxyType({})
    """The arguments this component was made with, defaults filled in."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            setattr(cls, "__init__", _validated(cls.__init__))

    @classmethod
    def schema(cls) -> type[pydantic.BaseModel]:
        """The strict pydantic model of this component's arguments, context arguments apart."""
        if "_schema" not in cls.__dict__:
            setattr(cls, "_schema", _derive(cls))
        return cls.__dict__["_schema"]

    @classmethod
    def of(cls, checked: pydantic.BaseModel, context: Mapping[str, Any]) -> Self:
        """A component of arguments that its own schema has checked, and of what it takes of `context`."""
        made, initial = cls.__new__(cls), inspect.unwrap(cls.__init__)
        made.__dict__["config"] = checked.model_dump()
        taken = {name: context[name] for name in inspect.signature(initial).parameters if name in context}
        initial(made, **taken, **_arguments(checked))
        return made


def _derive(cls: type[Component]) -> type[pydantic.BaseModel]:
    initial = inspect.unwrap(cls.__init__)
    fields: dict[str, Any] = {}
    if initial is not object.__init__:
        hints = typing.get_type_hints(initial, include_extras=True)
        for name, parameter in list(inspect.signature(initial).parameters.items())[1:]:
            variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if variadic or name in cls.context or name in cls.settled:
                continue
            assert name in hints, f"{cls.__qualname__}.__init__ must annotate {name!r}: that is its config"
            fields[name] = (hints[name], ... if parameter.default is parameter.empty else parameter.default)
    config = pydantic.ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )
    doc = inspect.getdoc(cls) or ""
    return pydantic.create_model(cls.__name__, __config__=config, __doc__=doc.split("\n\n")[0], **fields)


def _arguments(checked: pydantic.BaseModel) -> dict[str, Any]:
    return {name: getattr(checked, name) for name in type(checked).model_fields}


def _validated(initial: Callable[..., None]) -> Callable[..., None]:
    """Wrap a component's `__init__`: check the arguments by the class's schema, keep them in `.config`."""

    @functools.wraps(initial)
    def init(self: Component, *args: Any, **kwargs: Any) -> None:
        if "config" in self.__dict__:  # through super().__init__: the outermost call has checked its own
            return initial(self, *args, **kwargs)
        cls = type(self)
        try:
            bound = inspect.signature(initial).bind(self, *args, **kwargs)
        except TypeError as error:
            given = next((k for k in kwargs if k not in inspect.signature(initial).parameters), None)
            known = [*cls.schema().model_fields, *cls.context]
            expected = suggest(given, known) if given else f"arguments: {', '.join(known) or 'none'}"
            raise ConfigError(f"{cls.__name__}: {error}", got=given, expected=expected) from None
        values = dict(list(bound.arguments.items())[1:])
        context = {name: values.pop(name) for name in cls.context if name in values}
        checked = validate(cls.schema(), values, cls.__name__)
        self.__dict__["config"] = checked.model_dump()
        return initial(self, **context, **_arguments(checked))

    return init


def validate(schema: type[pydantic.BaseModel], values: Mapping[str, Any], owner: str) -> pydantic.BaseModel:
    """Check `values` by `schema`; raises `ConfigError` with the first problem, in words."""
    try:
        return schema.model_validate(values)
    except pydantic.ValidationError as error:
        raise explain(first_problem(error, values), schema, owner) from None


def first_problem(error: pydantic.ValidationError, values: Any) -> dict[str, Any]:
    """The first problem of `error`, unknown keys first: `loc` a path in `values`, a union's `msg`s as one."""
    problems = error.errors()
    # A misspelt key is often why another is missing.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    path = _path(first["loc"], values)
    alternatives = dict.fromkeys(p["msg"] for p in problems if _path(p["loc"], values) == path)
    return {**first, "loc": path, "msg": "; or: ".join(alternatives)}


def _path(location: tuple[int | str, ...], values: Any) -> tuple[int | str, ...]:
    """The part of a problem's location that names keys of `values`, not a union's alternatives."""
    path: list[int | str] = []
    for i, part in enumerate(location):
        mapping = isinstance(values, Mapping)
        if part in values if mapping else isinstance(values, list | tuple) and isinstance(part, int):
            values = values[part]
        elif i < len(location) - 1 or not mapping:
            continue
        path.append(part)
    return tuple(path)


def explain(problem: Any, schema: type[pydantic.BaseModel], owner: str) -> ConfigError:
    """One pydantic problem as a `ConfigError`: the key, what came, what was expected, the nearest names."""
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        known = list(schema.model_fields)
        return ConfigError(
            f"{owner} has no key {key!r}",
            got=f"{path}: {problem['input']!r}",
            expected=suggest(key, known) if known else "no keys",
        )
    if problem["type"] == "missing":
        field = schema.model_fields.get(str(problem["loc"][-1]))
        return ConfigError(
            f"{owner} needs {path!r}",
            expected=(field.description if field else None) or f"a value for {path}",
        )
    return ConfigError(
        f"{owner}: {path} is not valid" if path else f"{owner} is not valid",
        got=repr(problem["input"]),
        expected=problem["msg"],
    )
