"""`lapflow compare`: several configs under one budget, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    entries: Annotated[
        list[str], typer.Argument(help="Recipes or YAML files; 'NAME: RECIPE key=value ...' for a variant.")
    ],
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="A change for all of them, such as training.steps=600; may be repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Training runs of each, with seeds 0, 1, ...")] = 3,
    out: Annotated[Path, typer.Option(help="The folder of the runs and the table.")] = Path("runs/compare"),
) -> None:
    """Train, sample and measure each of ENTRIES, and write comparison.json, comparison.md and comparison.png.

    Finished runs are taken as they are, so the same command goes on where it was stopped, or adds entries.
    """
    from lapflow.evaluation.compare import Entry, table
    from lapflow.evaluation.compare import compare as run
    from lapflow.sampling.pictures import quality_against_work

    rows = run(
        [Entry.parse(text) for text in entries],
        out,
        common=override or [],
        seeds=seeds,
        say=lambda text: typer.echo(text, err=True),
    )
    quality_against_work(
        [(row.name, row.multiply_adds, row.frechet_ratio) for row in rows], out / "comparison.png"
    )
    typer.echo(table(rows))
    typer.echo(f"-> {out}/comparison.json, comparison.md, comparison.png")
