"""`lapflow evaluate`: sample a run and measure it against its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    num: Annotated[int | None, typer.Option(min=2, help="Number of samples. Default: the config's evaluation.samples.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale of classifier-free guidance; 1 is off. Default: the config's.")] = None,
    solver: Annotated[str | None, typer.Option(help="Solver. Default: the config's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in each segment, for a fixed-step solver.")] = None,
    seed: Annotated[int, typer.Option(help="Sample i is a function of (seed, i) and its class.")] = 0,
    weights: Annotated[str | None, typer.Option(help="ema or raw. Default: the config's sampling.weights.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Write RUN/metrics.json and RUN/report.md."""
    from lapflow.cli.progress import counter
    from lapflow.evaluation.run import evaluate_run, summary
    from lapflow.sampling.pipeline import Pipeline, solver_spec

    pipeline = Pipeline.load(run, weights=weights, device=device)
    total = num or pipeline.config.evaluation.samples
    with counter("sampling", total) as progress:
        metrics = evaluate_run(
            run,
            pipeline,
            num=total,
            guidance=guidance,
            solver=solver_spec(pipeline.config, solver, steps),
            seed=seed,
            progress=progress,
        )
    typer.echo(summary(metrics))
    typer.echo(f"-> {run}/metrics.json, {run}/report.md")
