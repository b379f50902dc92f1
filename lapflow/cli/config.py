"""`lapflow config`: what a config says once everything is filled in, and its JSON Schema."""

from __future__ import annotations

import json
import warnings

import typer

from lapflow.cli import options

app = typer.Typer(
    help="Show a config with every default filled in, or the schema of configs.", no_args_is_help=True
)


@app.command()
def show(
    config: options.Config,
    overrides: options.Changes = None,
) -> None:
    """Print the resolved CONFIG as YAML."""
    from lapflow.config.loading import dump_yaml, load_config

    typer.echo(dump_yaml(load_config(config, overrides or [])), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of config files, installed components included, for editors."""
    from lapflow.config.loading import file_schema

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        text = json.dumps(file_schema(), indent=2)
    for warning in found:
        typer.echo(f"lapflow: {warning.message}", err=True)
    typer.echo(text)


@app.command()
def recipes() -> None:
    """Print the names of the recipes."""
    from lapflow.config.loading import recipes

    typer.echo("\n".join(recipes()))
