"""The tables that commands print, each with the lines below it. As wide as the terminal; in a pipe as wide as
the text, so that a line stays a line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lapflow.analysis.checking import MaskPrice, OracleReport
    from lapflow.analysis.flops import Cost, SegmentCost
    from lapflow.flows.laws import LawReport
    from lapflow.training.dry_run import DryRun


def print_table(table: Table) -> None:
    """Print on stdout; square brackets in cells are text."""
    console = Console(markup=False)
    if not console.is_terminal:
        console = Console(markup=False, width=1000)
    console.print(table)


def print_list(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without lines."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    print_table(table)


def new_table(title: str, columns: Iterable[str], caption: str = "", left: Collection[str] = ()) -> Table:
    """A table in the style of all, without rows; columns are flush right, but those named in `left`."""
    table = Table(
        title=title,
        caption=caption or None,
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        title_style="bold",
    )
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right")
    return table


# ---- lapflow check


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
    columns = ("segment", "t", "place", "scale", "noise std", "trained", "deviation", "")
    title = "Law check: the sampler's law beside the training law"
    table = new_table(title, columns, caption, left=["place"])
    for r in report.rows:
        noise, trained = f"{r.noise_std:.6g}", f"{r.expected_noise_std:.6g}"
        deviation = f"{max(r.noise_error, r.mean_error):.1e}"
        verdict = ("by design" if r.designed and r.prior else "ok") if r.right else "WRONG"
        table.add_row(str(r.segment), f"{r.t:g}", r.place, str(r.scale), noise, trained, deviation, verdict)
    return table


def oracle_table(reports: Mapping[str, OracleReport]) -> Table:
    """The Gaussian oracle: errors of each band's std and mean, by solver: {its name: report}."""
    columns = ["scale"]
    for name, report in reports.items():
        columns += [f"{name}\n{report.evaluations} evaluations\nstd", "mean", "covariance"]
    table = new_table(
        "Gaussian oracle: the optimum in the network's place",
        [*columns, "exact solver\nstd", "mean"],
        "std, mean and covariance (dead directions included) are relative errors of the sampled band;\n"
        "exact solver: what remains at any number of steps (a prior that is not pure noise, a mismatch by "
        "design)",
    )
    for rows in zip(*(report.bands for report in reports.values()), strict=True):
        values = [v for r in rows for v in (r.std_error, r.mean_error, r.covariance_error)]
        values += [rows[0].expected_std_error, rows[0].expected_mean_error]
        table.add_row(str(rows[0].scale), *map(_percent, values))
    return table


def ladder_table(rungs: Sequence[tuple[Mapping[str, Any], OracleReport]]) -> Table:
    """What the config's solver costs: errors of each band's std against evaluations."""
    columns = [
        "solver",
        "evaluations",
        *(f"scale {band.scale}" for band in (rungs[0][1].bands if rungs else ())),
    ]
    title = "What the solver costs: error of each band's std against evaluations"
    table = new_table(title, columns, left=["solver"])
    for spec, report in rungs:
        knob = "steps" if "steps" in spec else "rtol"
        errors = [_percent(band.std_error) for band in report.bands]
        table.add_row(f"{spec['name']} {knob}={spec[knob]:g}", str(report.evaluations), *errors)
    return table


def mask_table(price: MaskPrice) -> Table:
    """The price of the mask on correlated images."""
    sizes = "x".join(map(str, price.sizes))
    table = new_table(
        f"Price of mask {price.mask!r}: correlated Gaussian samples (power 1/k^2, {sizes})",
        ("scale", "std", "covariance with coarser scales"),
        f"whole covariance off by {_percent(price.covariance_error)}, of which the solver makes "
        f"{_percent(price.solver_error)}",
    )
    for k, error in price.std_error.items():
        cross = ", ".join(f"{i}: {_percent(e)}" for (i, j), e in price.cross_error.items() if j == k)
        table.add_row(str(k), _percent(error), cross or "-")
    return table


def _percent(value: float) -> str:
    return f"{100 * value:+.3f} %" if abs(value) >= 5e-6 else f"{value:+.0e}"


# ---- lapflow flops


COUNTED = (
    "counted: token-wise layers, attention over the pairs seen, modulation\n"
    "not counted: embeddings of t and y, codec, the flow's and the solver's own arithmetic"
)


def cost_table(cost: Cost) -> Table:
    """Multiply-adds of an evaluation per segment and their time-weighted mean."""
    unit, shown = _unit(max(s.total for s in cost.segments))
    names = list(cost.segments[0].parts)
    title = f"Multiply-adds of one evaluation of one image, in {unit}"
    table = new_table(title, ("segment", "scales", *names, "total", "of one scale"))
    for s in cost.segments:
        parts, ratio = [shown(s.parts[n]) for n in names], s.total / cost.single_scale
        table.add_row(_span(s), " ".join(map(str, s.scales)), *parts, shown(s.total), f"{ratio:.4f}")
    table.add_section()
    ratio = cost.ratio_to_single_scale
    table.add_row("mean over t", "", *[""] * len(names), shown(cost.mean), f"{ratio:.4f}")
    table.add_row("one scale", "", *[shown(cost.single[n]) for n in names], shown(cost.single_scale), "1")
    return table


def sample_table(cost: Cost, solver: str) -> Table | None:
    """Multiply-adds of a sample per segment, with the config's solver and guidance; None where it chooses its
    steps itself."""
    if cost.sample is None or cost.guided_sample is None:
        return None
    unit, shown = _unit(cost.guided_sample)
    columns = ["segment", "evaluations", "multiply-adds", "of them guided", "with guidance"]
    width = 5 if cost.guided_sample != cost.sample else 3
    table = new_table(f"One sample, in {unit}: {solver}", columns[:width])
    for s in cost.segments:
        made, twice = s.evaluations or 0, s.guided or 0
        row = [_span(s), str(made), shown(made * s.total), str(twice), shown((made + twice) * s.total)]
        table.add_row(*row[:width])
    table.add_section()
    twice = sum(s.guided or 0 for s in cost.segments)
    row = ["sample", str(cost.evaluations), shown(cost.sample), str(twice), shown(cost.guided_sample)]
    table.add_row(*row[:width])
    return table


def sample_words(cost: Cost, solver: str) -> str:
    """What is said of a sample below its table, or in its place."""
    if cost.evaluations is None:
        text = (
            f"one sample: {solver} chooses its steps, so its evaluations are not known before it runs;\n"
            f"  {_count(cost.mean)} an evaluation on average, where they spread evenly over t"
        )
    else:
        text = f"{cost.sample_to_single_scale:.4f} of {cost.evaluations} evaluations of one scale"
    if cost.conditional:
        text += "\na guided evaluation is two"
        text += "" if cost.sample is None else f": {_count(2 * cost.sample)} if all are guided"
    return text


def _unit(largest: float) -> tuple[str, Callable[[float], str]]:
    """The unit in which `largest` is 1 to 1000, and the function that writes a number in it."""
    unit, size = next(((u, s) for u, s in (("T", 1e12), ("G", 1e9)) if largest >= s), ("M", 1e6))
    return unit, lambda value: f"{value / size:.3f}"


def _count(value: float) -> str:
    unit, shown = _unit(value)
    return f"{shown(value)} {unit}"


def _span(segment: SegmentCost) -> str:
    return f"{segment.start:.4g} - {segment.stop:.4g}"


# ---- lapflow train --dry-run


def step_table(found: DryRun) -> Table:
    """What a dry run measured."""
    among = f", {found.processes} processes" if found.processes > 1 else ""
    title = f"The second of two training steps, on {found.device}{among}"
    table = new_table(title, ("of a step", ""), left=["of a step"])
    memory = "allocated on the device" if found.device.startswith("cuda") else "resident, the whole process"
    table.add_row("seconds", f"{found.seconds:.3f}")
    table.add_row(f"peak memory ({memory})", f"{_count(found.memory)}B")
    table.add_row("parameters", f"{found.parameters / 1e6:.2f} M")
    table.add_row("multiply-adds", _count(found.multiply_adds))
    table.add_row("images", str(found.images))
    table.add_row("loss", f"{found.loss:.4g}")
    return table


def step_words(found: DryRun) -> str:
    """What is said below it."""
    memory = "memory: of the process that needed most\n" if found.processes > 1 else ""
    return (
        f"{memory}multiply-adds: as the network counts them for the scales that this step drew, times three "
        "for\n  forward and backward; recomputation, codec and the objective's own networks are not counted\n"
        "nothing was written"
    )
