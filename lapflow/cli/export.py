"""`lapflow export`: a run's weights as a folder that diffusers loads and the Hub takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lapflow.cli import options


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="The licence that the model card states, such as apache-2.0. Default: not stated.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the card calls the folder, such as YOU/MODEL. Default: OUT.")
    ] = None,
) -> None:
    """Write RUN's weights to OUT in the layout of diffusers: safetensors, configs, a model card. Needs the
    extra diffusers."""
    from lapflow.hub.pipeline import export_run

    pipe = export_run(run, out, checkpoint=checkpoint, weights=weights, licence=licence, name=name)
    about = pipe.loaded_run
    typer.echo(f"{about.weights} weights of step {about.step} -> {out}")
    if pipe.config.metrics is None:
        evaluate = "`lapflow evaluate` before exporting puts its figures on the card"
        typer.echo(f"Nothing measured of them was found: {evaluate}.")
