"""`lapflow sample`: draw images from a run."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import typer

from lapflow.cli import options


def sample(
    run: Annotated[Path, typer.Argument(help="A run folder, or an exported one.")],
    overrides: options.DataAt = None,
    num: Annotated[int, typer.Option(min=1, help="Number of images.")] = 100,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="A class, by name or number; may be repeated. Default: all in turn."),
    ] = None,
    captions: Annotated[
        list[str] | None,
        typer.Option("--caption", help="A caption, for a run trained on them; may be repeated."),
    ] = None,
    guidance: options.Guidance = None,
    solver: options.Solver = None,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    device: options.Device = "auto",
    attention: options.Attention = None,
    out: Annotated[Path | None, typer.Option(help="Where to write. Default: RUN/samples.")] = None,
    allow_changes: options.AllowChanges = False,
) -> None:
    """Write grid.png, one PNG per image, scales.png (each scale maturing over time) and samples.npz."""
    from lapflow.cli.progress import counter
    from lapflow.plugins.registry import create
    from lapflow.sampling.pipeline import Pipeline, solver_spec
    from lapflow.sampling.writing import prepare_folder, write_samples

    of: dict[str, Any] = {
        "checkpoint": checkpoint,
        "weights": weights,
        "device": device,
        "attention": attention,
    }
    pipeline = Pipeline.load(run, overrides=overrides or [], allow_changes=allow_changes, **of)
    folder = out or run / "samples"
    labels = list(islice(cycle([pipeline.label(name) for name in classes]), num)) if classes else None
    method = create("solver", solver_spec(pipeline.config, solver, steps))
    pipeline.require(method, guidance)
    prepare_folder(folder)
    with counter("sampling", num) as progress:
        samples = pipeline.sample(
            num,
            labels=labels,
            captions=list(islice(cycle(captions), num)) if captions else None,
            solver=method,
            guidance=guidance,
            seed=seed,
            batch_size=batch_size,
            trajectory=True,
            progress=progress,
        )
    write_samples(folder, samples, pipeline)
    files = f"{folder}/grid.png, scales.png, samples.npz, images/"
    typer.echo(f"{num} images, {samples.evaluations} evaluations each -> {files}")
