"""`lapflow flops`: the arithmetic of a composition."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def flops(
    config: Annotated[str | None, typer.Argument(help="A recipe's name or a YAML file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes, such as model.mask=none.", metavar="[KEY=VALUE]...")
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="What the rows of LapFlow's paper imply; takes no CONFIG.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Multiply-adds of CONFIG's network per segment, evaluation and sample. Nothing is allocated."""
    from lapflow.core.errors import ConfigError

    if paper:
        if config is not None:
            raise ConfigError(
                "--paper is about the paper's own rows", got="a config", expected="--paper alone"
            )
        _paper(as_json)
        return
    if config is None:
        raise ConfigError(
            "flops needs a config", got="none", expected="a recipe's name or a YAML file, or --paper"
        )
    _config(config, overrides or [], as_json)


def _config(name: str, overrides: list[str], as_json: bool) -> None:
    from lapflow.config.loading import load_config
    from lapflow.evaluation.flops import cost
    from lapflow.evaluation.provenance import words

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


def _paper(as_json: bool) -> None:
    from lapflow.evaluation.published import implied

    rows = implied()
    if as_json:
        _json([row.document() for row in rows])
        return
    from lapflow.cli.cost_tables import paper_table, paper_words
    from lapflow.cli.output import print_table

    print_table(paper_table(rows))
    typer.echo(paper_words(rows))


def _json(document: Any) -> None:
    import json

    typer.echo(json.dumps(document, indent=2))
