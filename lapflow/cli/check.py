"""`lapflow check`: does a composition sample the right law? Answered in seconds, before any training."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import asdict

import typer

from lapflow.cli import options

CONVERGED_STEPS = 200
MAX_PRICED = 256
"""The most pixels of a sample for which the price of a mask is computed: it inverts covariances of whole
samples, in seconds at 16x16, in an hour at 32x32."""


def check(config: options.Config, overrides: options.Changes = None, as_json: options.Json = False) -> None:
    """Law check and Gaussian oracle of CONFIG: what is exact, and what the solver and the mask cost."""
    from lapflow.analysis.checking import check_bands, check_mask, ladder, unstated
    from lapflow.cli.tables import ladder_table, law_table, mask_table, oracle_table, print_table
    from lapflow.config.building import build_flow, build_solver
    from lapflow.config.loading import load_config
    from lapflow.core.attention import Mask
    from lapflow.core.errors import ConfigError
    from lapflow.flows.laws import check_laws
    from lapflow.plugins.registry import create
    from lapflow.solvers import RK4

    settings = load_config(config, overrides or [])
    named = settings.sampling.solver
    flow = build_flow(settings, check=False)
    laws = check_laws(flow)
    converged = check_bands(flow, RK4(steps=CONVERGED_STEPS))
    solver = build_solver(settings)
    untried = unstated(solver)
    own = None if untried else check_bands(flow, solver)
    rungs = []
    for spec in [] if untried else ladder(named):
        with suppress(ConfigError):  # a number of steps that the path cannot take
            rungs.append((spec, check_bands(flow, create("solver", spec))))
    mask: Mask = settings.model.get("mask", "none") if flow.levels > 1 else "none"
    # Merged, a network sees one image: there is nothing to mask.
    priceable = flow.representation == "bands" and flow.noise.white
    small = math.prod(flow.decomposition.smallest) <= MAX_PRICED
    price = check_mask(flow, RK4(steps=50), mask) if priceable and small else None
    if as_json:
        document: dict[str, object] = {
            "laws": [asdict(r) for r in laws.rows],
            "oracle": asdict(converged),
            "solver": {**named, **({"untried": untried} if own is None else asdict(own))},
            "solver_costs": [{**spec, **asdict(report)} for spec, report in rungs],
        }
        if price is not None:
            cross_error = {f"{i}-{j}": e for (i, j), e in price.cross_error.items()}
            document["mask"] = {**asdict(price), "cross_error": cross_error}
        typer.echo(json.dumps(document, indent=2))
    else:
        reports = {f"rk4, {CONVERGED_STEPS} steps a segment": converged}
        print_table(law_table(laws))
        print_table(oracle_table(reports if own is None else {**reports, named["name"]: own}))
        if untried:
            heads = " or ".join(untried)
            typer.echo(f"The solver {named['name']} is not tried: no oracle states the head {heads}.")
        else:
            print_table(ladder_table(rungs))
        if price is not None:
            print_table(mask_table(price))
        elif priceable:
            typer.echo(f"The price of the mask is not computed for more than {MAX_PRICED} pixels a sample.")
    laws.require()
