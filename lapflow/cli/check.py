"""`lapflow check`: does a composition sample the right law? Answered in seconds, before any training."""

from __future__ import annotations

import math
from typing import Annotated

import typer

CONVERGED_STEPS = 200
MAX_PRICED = 256
"""The most pixels of a sample for which the price of a mask is computed: it inverts covariances of whole
samples, in seconds at 16x16, in an hour at 32x32."""


def check(
    config: Annotated[str, typer.Argument(help="A recipe's name or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes, such as flow.path=gvp.", metavar="[KEY=VALUE]...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Law check and Gaussian oracle of CONFIG: what is exact, and what the solver and the mask cost."""
    from contextlib import suppress
    from dataclasses import asdict

    from lapflow.analysis.checking import check_bands, check_mask, ladder, unstated
    from lapflow.config.building import build_flow, build_solver
    from lapflow.config.loading import load_config
    from lapflow.core.attention import Mask
    from lapflow.core.errors import ConfigError
    from lapflow.flows.laws import check_laws
    from lapflow.plugins.registry import create
    from lapflow.solvers import RK4

    settings = load_config(config, overrides or [])
    flow = build_flow(settings, check=False)
    laws = check_laws(flow)
    converged = check_bands(flow, RK4(steps=CONVERGED_STEPS))
    solver = build_solver(settings)
    untried = unstated(solver)
    own = None if untried else check_bands(flow, solver)
    rungs = []
    for spec in [] if untried else ladder(settings.sampling.solver):
        with suppress(ConfigError):  # a number of steps that the path cannot take
            rungs.append((spec, check_bands(flow, create("solver", spec))))
    mask: Mask = settings.model.get("mask", "none") if flow.levels > 1 else "none"
    # Merged, a network sees one image: there is nothing to mask.
    priceable = flow.representation == "bands" and flow.noise.white
    small = math.prod(flow.decomposition.smallest) <= MAX_PRICED
    price = check_mask(flow, RK4(steps=50), mask) if priceable and small else None
    if as_json:
        import json

        document: dict[str, object] = {
            "laws": [asdict(r) for r in laws.rows],
            "oracle": asdict(converged),
            "solver": {**settings.sampling.solver, **({"untried": untried} if own is None else asdict(own))},
        }
        document["solver_costs"] = [{**spec, **asdict(report)} for spec, report in rungs]
        if price is not None:
            document["mask"] = {
                **asdict(price),
                "cross_error": {f"{i}-{j}": e for (i, j), e in price.cross_error.items()},
            }
        typer.echo(json.dumps(document, indent=2))
    else:
        from lapflow.cli.output import print_table
        from lapflow.cli.tables import ladder_table, law_table, mask_table, oracle_table

        name = settings.sampling.solver["name"]
        converged_name = f"rk4, {CONVERGED_STEPS} steps a segment"
        for table in (law_table(laws), oracle_table(converged, own, converged_name, name)):
            print_table(table)
        if untried:
            typer.echo(f"The solver {name} is not tried: no oracle states the head {' or '.join(untried)}.")
        else:
            print_table(ladder_table(rungs))
        if price is not None:
            print_table(mask_table(price))
        elif priceable:
            typer.echo(f"The price of the mask is not computed for more than {MAX_PRICED} pixels a sample.")
    laws.require()
