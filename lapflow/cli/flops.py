"""`lapflow flops`: the arithmetic of a composition."""

from __future__ import annotations

from typing import Annotated

import typer

from lapflow.cli import options


def flops(
    config: options.Config,
    overrides: Annotated[list[str] | None, options.changes("model.mask=none")] = None,
    as_json: options.Json = False,
) -> None:
    """Multiply-adds of CONFIG's network per segment, evaluation and sample. Nothing is allocated."""
    import json

    from lapflow.analysis.flops import cost
    from lapflow.cli.tables import COUNTED, cost_table, print_table, sample_table, sample_words
    from lapflow.config.loading import load_config
    from lapflow.evaluation.report import words

    settings = load_config(config, overrides or [])
    found, solver = cost(settings), settings.sampling.solver
    if as_json:
        typer.echo(json.dumps(found.document(), indent=2))
        return
    print_table(cost_table(found))
    typer.echo(f"{COUNTED}\nparameters: {found.parameters / 1e6:.2f} M\n")
    if (table := sample_table(found, words(solver))) is not None:
        print_table(table)
    typer.echo(sample_words(found, solver["name"]))
