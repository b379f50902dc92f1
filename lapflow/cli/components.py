"""`lapflow components`: what is installed, of every kind, and what each one takes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lapflow.plugins.kinds import KINDS
from lapflow.plugins.skeletons import SKELETONS

if TYPE_CHECKING:
    from pydantic import BaseModel


BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


class _KindOrCommand(typer.core.TyperGroup):
    """Lets `components KIND` stand for `components list KIND`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and not args[0].startswith("-")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_KindOrCommand,
    help="List the components installed, show what one takes, or write a new one: [KIND], show KIND NAME, "
    "or new NAME.",
)


@app.command("list")
def list_components(
    kind: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(KINDS)}. Default: all.")] = None,
) -> None:
    """List components with their origin and status; each is loaded to see whether it can be."""
    from lapflow.cli.tables import print_list
    from lapflow.plugins.kinds import find_kind
    from lapflow.plugins.registry import PluginWarning, sources

    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # the table says it
        for of in [find_kind(kind).name] if kind else KINDS:
            for listed in sources(of, load=True):
                source = listed.source
                status = listed.status + (f": {listed.cause}" if listed.cause else "")
                rows.append((of, source.name, f"{source.distribution} {source.version}", source.path, status))
    print_list(("kind", "name", "from", "class", "status"), rows)


@app.command("show")
def show_component(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.")],
    name: Annotated[str, typer.Argument(help="A name, or name@distribution.")],
) -> None:
    """Show a component's arguments: type, default, meaning."""
    from lapflow.cli.tables import print_list
    from lapflow.plugins.registry import find_source

    source = find_source(kind, name)
    model = source.load().schema()
    typer.echo(f"{kind} {name}, of {source.label}\n{model.__doc__ or ''}\n")
    if rows := argument_rows(model):
        print_list(("argument", "type", "default", "meaning"), rows)
    else:
        typer.echo("no arguments")


@app.command("new")
def new_component(
    name: Annotated[str, typer.Argument(help="The component's name, such as my-solver.")],
    kind: Annotated[str, typer.Option(help=f"One of: {', '.join(SKELETONS)}.")],
    out: Annotated[Path | None, typer.Option(help="The folder to make. Default: lapflow-NAME.")] = None,
) -> None:
    """Write a plugin that works: a distribution with one component of KIND, its entry point and its
    conformance test."""
    from lapflow.config.schema import component_kinds
    from lapflow.plugins.skeleton import distribution_name, write_skeleton

    folder = out or Path(distribution_name(name))
    places = {of: ".".join(path) for path, of in component_kinds().items()}
    for path in write_skeleton(kind, name, folder, places.get(kind, kind)):
        typer.echo(path)
    typer.echo(f"next: pip install --editable {folder} && python -m pytest {folder}/tests")


def argument_rows(model: type[BaseModel]) -> list[tuple[str, str, str, str]]:
    """A component's arguments from its schema, in words: name, type with bounds, default (or "required"),
    meaning."""
    fields = model.model_json_schema()
    required = fields.get("required", [])
    rows = []
    for name, rule in fields.get("properties", {}).items():
        default = "required" if name in required else str(rule.get("default"))
        rows.append((name, describe(rule), default, str(rule.get("description", ""))))
    return rows


def describe(rule: dict[str, Any]) -> str:
    """A JSON Schema rule in a few words: `integer >= 1`, `list of number`, `a or b`."""
    if "anyOf" in rule:
        return " or ".join(describe(option) for option in rule["anyOf"])
    if "enum" in rule or "const" in rule:
        return " or ".join(map(str, rule.get("enum", [rule.get("const")])))
    if rule.get("type") == "array":
        return f"list of {describe(rule.get('items', {}))}"
    bounds = [f"{sign} {rule[key]}" for key, sign in BOUNDS.items() if key in rule]
    return " ".join([str(rule.get("type", "any")), *bounds])
