"""`lapflow evaluate`: sample a run and measure it against its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lapflow.cli import options


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    overrides: Annotated[
        list[str] | None, options.changes("evaluation.metrics=\\[frechet,kid] or data.root=PATH")
    ] = None,
    num: Annotated[
        int | None, typer.Option(min=2, help="Number of samples. Default: the config's evaluation.samples.")
    ] = None,
    guidance: options.Guidance = None,
    solver: options.Solver = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    device: options.Device = "auto",
    npz: Annotated[
        Path | None,
        typer.Option(help="Write the samples to this file too: arr_0 uint8 [n, h, w, c], arr_1 labels."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: RUN.")] = None,
    allow_changes: options.AllowChanges = False,
) -> None:
    """Write metrics.json and report.md. The same command goes on where it was stopped; under torchrun
    processes share the work."""
    from dataclasses import replace

    from lapflow.cli.progress import counter
    from lapflow.evaluation.run import evaluate_run, evaluation_config, processes, summary
    from lapflow.sampling.pipeline import Pipeline, solver_spec

    engine = processes(device)
    engine.start()
    moved = [text for text in overrides or [] if text.startswith("data.")]
    of: dict[str, Any] = {"checkpoint": checkpoint, "weights": weights, "device": device}
    pipeline = engine.jointly(lambda: Pipeline.load(run, overrides=moved, allow_changes=allow_changes, **of))
    measured = [text for text in overrides or [] if text not in moved]
    config = engine.jointly(lambda: evaluation_config(pipeline.config, measured))
    metrics = evaluate_run(
        run,
        replace(pipeline, config=config),
        num=num or config.evaluation.samples,
        guidance=guidance,
        solver=solver_spec(config, solver, steps),
        seed=seed,
        batch_size=batch_size,
        evaluation=config.evaluation,
        out=out,
        npz=npz,
        engine=engine,
        counter=counter,
    )
    engine.stop()
    if engine.rank == 0:
        typer.echo(summary(metrics))
        folder = out or run
        typer.echo(f"-> {folder}/metrics.json, {folder}/report.md" + (f", {npz}" if npz else ""))
