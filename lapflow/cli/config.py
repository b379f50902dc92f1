"""`lapflow config`: what a config says once everything is filled in, and its JSON Schema."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="Show a config with every default filled in, or the schema of configs.", no_args_is_help=True
)


@app.command()
def show(
    config: Annotated[str, typer.Argument(help="A recipe's name or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes, such as flow.path=gvp.", metavar="[KEY=VALUE]...")
    ] = None,
) -> None:
    """Print the resolved CONFIG as YAML."""
    from lapflow.config.loading import dump_yaml, load_config

    typer.echo(dump_yaml(load_config(config, overrides or [])), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of config files, installed components included, for editors."""
    import json
    import sys
    import warnings

    from lapflow.config.loading import file_schema

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        text = json.dumps(file_schema(), indent=2)
    for warning in found:
        print(f"lapflow: {warning.message}", file=sys.stderr)
    typer.echo(text)


@app.command()
def recipes() -> None:
    """Print the names of the recipes."""
    from lapflow.config.loading import recipes

    typer.echo("\n".join(recipes()))
