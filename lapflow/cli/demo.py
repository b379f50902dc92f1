"""`lapflow demo`: a page to play with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lapflow.cli import options


def demo(
    run: Annotated[Path, typer.Argument(help="A run folder, or an exported one.")],
    host: Annotated[
        str, typer.Option(help="The address to listen at. Another than this machine's own lets others in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one. A busy one is an error.")
    ] = 8360,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    device: options.Device = "auto",
    attention: options.Attention = None,
) -> None:
    """Serve a page to play with RUN: choose class, guidance, solver, steps and seed, watch the scales mature,
    compare two settings, and copy the command that repeats a picture. Ctrl-C ends it. Needs the extra
    demo."""
    from lapflow.demo.capabilities import Capabilities
    from lapflow.demo.web import address, application, bind, is_private, serve
    from lapflow.demo.worker import Worker
    from lapflow.sampling.pipeline import Pipeline

    with bind(host, port) as listening:
        pipeline = Pipeline.load(
            run, checkpoint=checkpoint, weights=weights, device=device, attention=attention
        )
        on = None if device == "auto" else device
        chosen = {"--weights": weights, "--device": on, "--attention": attention}
        given = {option: value for option, value in chosen.items() if value is not None}
        capabilities = Capabilities.of(run, pipeline, given)
        worker = Worker()
        app = application(capabilities, worker, (host,))

        def ready() -> None:
            typer.echo(f"{capabilities.title}: {address(listening)}  (Ctrl-C ends it)")
            if not is_private(listening):
                typer.echo("anyone who reaches this machine can open the page, which has no password")

        serve(app, worker, listening, ready)
    typer.echo("ended")
