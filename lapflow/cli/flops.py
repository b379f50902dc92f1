"""`lapflow flops`: parameters and multiply-adds of a composition."""

from __future__ import annotations

from typing import Annotated

import typer


def flops(
    config: Annotated[str, typer.Argument(help="A recipe's name or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes, such as model.mask=none.", metavar="[KEY=VALUE]...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Parameters of CONFIG's network and multiply-adds per segment and evaluation. Nothing is allocated."""
    from dataclasses import asdict

    from lapflow.config.loading import load_config
    from lapflow.evaluation.flops import cost

    found = cost(load_config(config, overrides or []))
    if as_json:
        import json

        totals = {"mean": found.mean, "ratio_to_single_scale": found.ratio_to_single_scale}
        typer.echo(json.dumps({**asdict(found), **totals}, indent=2))
        return
    from lapflow.cli.output import print_table
    from lapflow.cli.tables import cost_table

    print_table(cost_table(found))
    typer.echo(f"parameters: {found.parameters / 1e6:.2f} M")
