"""How layers of a config merge: the defaults, the `base:` and its own base, the file, the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from lapflow.config.schema import component_kinds
from lapflow.config.yaml12 import KeyPath, Layer, read_value, read_yaml
from lapflow.core.errors import ConfigError, suggest


def recipes() -> list[str]:
    """The names of the recipes that come with lapflow."""
    return sorted(
        file.name.removesuffix(".yaml")
        for file in resources.files("lapflow.recipes").iterdir()
        if file.name.endswith(".yaml")
    )


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
            joins = isinstance(value, Mapping) and isinstance(old, Mapping)
            if joins and path in kinds:
                joins = value.get("name", old.get("name")) == old.get("name")  # type: ignore[union-attr]  # both are mappings
            if joins:
                joined.add(path)
                into[key] = dict(old)  # type: ignore[arg-type]
                put(into[key], value, path)
                continue
            for known in [known for known in origins if known[: len(path)] == path]:
                del origins[known]
            into[key] = value

    put(values, above.values, ())
    # A mapping that both have stays where it was; its keys and leaves come from where they were given last.
    return Layer(
        values,
        origins
        | {path: place for path, place in above.origins.items() if path not in joined or path not in origins},
    )


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
