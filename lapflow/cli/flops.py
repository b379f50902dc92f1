"""`lapflow flops`: the arithmetic of a composition."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def flops(
    config: Annotated[str, typer.Argument(help="A recipe's name or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes, such as model.mask=none.", metavar="[KEY=VALUE]...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Multiply-adds of CONFIG's network per segment, evaluation and sample. Nothing is allocated."""
    _config(config, overrides or [], as_json)


def _config(name: str, overrides: list[str], as_json: bool) -> None:
    from lapflow.analysis.flops import cost
    from lapflow.config.loading import load_config
    from lapflow.evaluation.report import words

    settings = load_config(name, overrides)
    found = cost(settings)
    if as_json:
        _json(found.document())
        return
    from lapflow.cli.cost_tables import COUNTED, cost_table, sample_table, sample_words
    from lapflow.cli.output import print_table

    print_table(cost_table(found))
    typer.echo(f"{COUNTED}\nparameters: {found.parameters / 1e6:.2f} M\n")
    if (table := sample_table(found, words(settings.sampling.solver))) is not None:
        print_table(table)
    typer.echo(sample_words(found, settings.sampling.solver["name"]))


def _json(document: Any) -> None:
    import json

    typer.echo(json.dumps(document, indent=2))
