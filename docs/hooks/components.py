"""docs/components.md: every built-in component, from its own docstring and schema, at the place of `<!--
components -->`."""

from __future__ import annotations

from typing import Any

from lapflow.cli.components import argument_rows
from lapflow.config.schema import component_kinds
from lapflow.plugins.kinds import BUILTIN, KINDS, Kind
from lapflow.plugins.registry import get

MARK = "<!-- components -->"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill the page that has the mark."""
    return markdown.replace(MARK, all_components()) if MARK in markdown else markdown


def all_components() -> str:
    """One section for each kind."""
    return "\n\n".join(section(kind) for kind in KINDS.values())


def section(kind: Kind) -> str:
    """A kind: what its contract says, where a config names it, and each component of it."""
    contract = kind.load_contract()
    places = [".".join(path) for path, of in component_kinds().items() if of == kind.name]
    named = f"In a config: {', '.join(f'`{place}`' for place in places)}. " if places else ""
    intro = (
        f"{first_paragraph(contract)}\n\n{named}Contract: `{contract.__module__}.{contract.__qualname__}`."
    )
    return "\n\n".join([f"## {kind.name}", intro, *(entry(kind.name, name) for name in BUILTIN[kind.name])])


def entry(kind: str, name: str) -> str:
    """A component: its class, the first paragraph of its docstring, its options."""
    found = get(kind, name)
    rows = argument_rows(found.schema())
    text = (
        f"### {name} "
        f"{{ #{kind}-{name} }}\n\n{first_paragraph(found)}\n\n`{found.__module__}.{found.__qualname__}`"
    )
    if not rows:
        return f"{text}; no options."
    lines = ["| option | type and bounds | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{option}` | {cell(rule)} | {cell(default)} | {cell(meaning)} |"
        for option, rule, default, meaning in rows
    ]
    return text + "\n\n" + "\n".join(lines)


def first_paragraph(cls: type) -> str:
    """The first paragraph of a class's own docstring, as one line, its plain signs kept."""
    assert cls.__doc__, f"{cls.__qualname__} has no docstring"
    return plain(" ".join(cls.__doc__.strip().split("\n\n")[0].split()))


def cell(text: str) -> str:
    """`text` for a cell of a table."""
    return plain(text).replace("|", r"\|") or "-"


def plain(text: str) -> str:
    """Keep Markdown from reading the signs of a formula (x_k, *, <, [) as its own, outside code."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        parts[i] = parts[i].replace("<", "&lt;")
        for sign in "_*[":
            parts[i] = parts[i].replace(sign, f"\\{sign}")
    return "`".join(parts)
