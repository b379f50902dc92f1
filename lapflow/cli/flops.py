"""`lapflow flops`: the arithmetic and the memory of a composition."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def flops(
    config: Annotated[str, typer.Argument(help="A recipe's name or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes, such as model.mask=none.", metavar="[KEY=VALUE]...")
    ] = None,
    with_memory: Annotated[
        bool, typer.Option("--memory", help="Estimate the memory of training and of sampling too.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Memory for so many images: in a training step, over all processes; and drawn at once."
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Memory for so many processes of the config's engine.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Multiply-adds of CONFIG's network per segment, evaluation and sample. Nothing is allocated.

    --memory adds an estimate of what training and sampling need; --batch and --processes ask for it too.
    """
    remember = with_memory or batch is not None or processes is not None
    _config(config, overrides or [], remember, batch, 1 if processes is None else processes, as_json)


def _config(
    name: str, overrides: list[str], remember: bool, batch: int | None, processes: int, as_json: bool
) -> None:
    from lapflow.analysis.flops import cost
    from lapflow.config.loading import load_config
    from lapflow.evaluation.memory import memory
    from lapflow.evaluation.provenance import words
    from lapflow.plugins.registry import changed

    settings = load_config(name, overrides)
    found = cost(settings)
    estimate = memory(settings, batch=batch, processes=processes) if remember else None
    if as_json:
        _json({**found.document(), **({} if estimate is None else {"memory": estimate.document()})})
        return
    from lapflow.cli.cost_tables import (
        COUNTED,
        activation_table,
        cost_table,
        engine_words,
        held_table,
        memory_words,
        sample_table,
        sample_words,
    )
    from lapflow.cli.output import print_table

    print_table(cost_table(found))
    typer.echo(f"{COUNTED}\nparameters: {found.parameters / 1e6:.2f} M\n")
    if (table := sample_table(found, words(settings.sampling.solver))) is not None:
        print_table(table)
    typer.echo(sample_words(found, settings.sampling.solver["name"]))
    if estimate is None:
        return
    typer.echo(f"\n{engine_words(estimate, words(changed('engine', settings.engine)))}\n")
    if estimate.held is not None:
        print_table(held_table(estimate))
    if estimate.sampling is not None:
        print_table(activation_table(estimate))
    typer.echo(memory_words(estimate))


def _json(document: Any) -> None:
    import json

    typer.echo(json.dumps(document, indent=2))
