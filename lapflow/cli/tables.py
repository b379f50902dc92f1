"""The tables that `lapflow check` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lapflow.analysis.checking import MaskPrice, OracleReport
from lapflow.cli.output import new_table
from lapflow.flows.laws import LawReport


def law_table(report: LawReport) -> Table:
    """The law check: one row per band at each start, bridge and end."""
    caption = "noise std per direction of each band's range; deviations are relative"
    if priors := [row.prior for row in report.rows if row.prior and not row.designed]:
        caption += f"\nprior: scales enter from noise alone while alpha / sigma = {max(priors):.3g}"
    for row in (row for row in report.rows if row.designed and row.prior):
        caption += (
            f"\nby design scale {row.scale} enters without the data that training has there: alpha / "
            f"sigma up to {row.prior:.3g}"
        )
    table = new_table("Law check: the sampler's law beside the training law", caption)
    for name in ("segment", "t", "place", "scale", "noise std", "trained", "deviation", ""):
        table.add_column(name, justify="left" if name == "place" else "right")
    for r in report.rows:
        deviation = max(r.noise_error, r.mean_error)
        table.add_row(
            str(r.segment),
            f"{r.t:g}",
            r.place,
            str(r.scale),
            f"{r.noise_std:.6g}",
            f"{r.expected_noise_std:.6g}",
            f"{deviation:.1e}",
            ("by design" if r.designed and r.prior else "ok") if r.right else "WRONG",
        )
    return table


def oracle_table(
    converged: OracleReport, own: OracleReport | None, converged_name: str, own_name: str
) -> Table:
    """The Gaussian oracle: errors of each band's std and mean, converged and with the config's own solver, if
    it can be tried."""
    table = new_table(
        "Gaussian oracle: the optimum in the network's place",
        "std, mean and covariance (dead directions included) are relative errors of the sampled band;\n"
        "exact solver: what remains at any number of steps (a prior that is not pure noise, a mismatch by "
        "design)",
    )
    table.add_column("scale", justify="right")
    reports = [(converged_name, converged), *([] if own is None else [(own_name, own)])]
    for name, report in reports:
        table.add_column(f"{name}\n{report.evaluations} evaluations\nstd", justify="right")
        table.add_column("mean", justify="right")
        table.add_column("covariance", justify="right")
    table.add_column("exact solver\nstd", justify="right")
    table.add_column("mean", justify="right")
    for rows in zip(*(report.bands for _, report in reports), strict=True):
        values = [v for r in rows for v in (r.std_error, r.mean_error, r.covariance_error)]
        first = rows[0]
        table.add_row(
            str(first.scale),
            *(_percent(v) for v in (*values, first.expected_std_error, first.expected_mean_error)),
        )
    return table


def ladder_table(rungs: Sequence[tuple[Mapping[str, Any], OracleReport]]) -> Table:
    """What the config's solver costs: errors of each band's std against evaluations."""
    table = new_table("What the solver costs: error of each band's std against evaluations", "")
    for name in ("solver", "evaluations"):
        table.add_column(name, justify="left" if name == "solver" else "right")
    for band in rungs[0][1].bands if rungs else ():
        table.add_column(f"scale {band.scale}", justify="right")
    for spec, report in rungs:
        knob = "steps" if "steps" in spec else "rtol"
        table.add_row(
            f"{spec['name']} {knob}={spec[knob]:g}",
            str(report.evaluations),
            *(_percent(b.std_error) for b in report.bands),
        )
    return table


def mask_table(price: MaskPrice) -> Table:
    """The price of the mask on correlated images."""
    sizes = "x".join(map(str, price.sizes))
    table = new_table(
        f"Price of mask {price.mask!r}: correlated Gaussian samples (power 1/k^2, {sizes})",
        f"whole covariance off by {_percent(price.covariance_error)}, of which the solver makes "
        f"{_percent(price.solver_error)}",
    )
    table.add_column("scale", justify="right")
    table.add_column("std", justify="right")
    table.add_column("covariance with coarser scales", justify="right")
    for k, error in price.std_error.items():
        cross = ", ".join(f"{i}: {_percent(e)}" for (i, j), e in price.cross_error.items() if j == k)
        table.add_row(str(k), _percent(error), cross or "-")
    return table


def _percent(value: float) -> str:
    return f"{100 * value:+.3f} %" if abs(value) >= 5e-6 else f"{value:+.0e}"
