"""The tables that `lapflow flops` and `lapflow train --dry-run` print, each with the lines below it."""

from __future__ import annotations

from rich.table import Table

from lapflow.analysis.flops import Cost, SegmentCost
from lapflow.cli.output import new_table
from lapflow.training.dry_run import DryRun

COUNTED = (
    "counted: token-wise layers, attention over the pairs seen, modulation\n"
    "not counted: embeddings of t and y, codec, the flow's and the solver's own arithmetic"
)


def cost_table(cost: Cost) -> Table:
    """Multiply-adds of an evaluation per segment and their time-weighted mean."""
    unit = _Unit(max(s.total for s in cost.segments))
    table = new_table(f"Multiply-adds of one evaluation of one image, in {unit}")
    names = list(cost.segments[0].parts)
    for name in ("segment", "scales", *names, "total", "of one scale"):
        table.add_column(name, justify="right")
    for s in cost.segments:
        parts, ratio = [unit(s.parts[n]) for n in names], s.total / cost.single_scale
        table.add_row(_span(s), " ".join(map(str, s.scales)), *parts, unit(s.total), f"{ratio:.4f}")
    table.add_section()
    table.add_row("mean over t", "", *[""] * len(names), unit(cost.mean), f"{cost.ratio_to_single_scale:.4f}")
    table.add_row("one scale", "", *[unit(cost.single[n]) for n in names], unit(cost.single_scale), "1")
    return table


def sample_table(cost: Cost, solver: str) -> Table | None:
    """Multiply-adds of a sample per segment, with the config's solver and guidance; None where it chooses its
    steps itself."""
    if cost.sample is None or cost.guided_sample is None:
        return None
    unit, guided = _Unit(cost.guided_sample), cost.guided_sample != cost.sample
    table = new_table(f"One sample, in {unit}: {solver}")
    for name in (
        "segment",
        "evaluations",
        "multiply-adds",
        *(("of them guided", "with guidance") if guided else ()),
    ):
        table.add_column(name, justify="right")
    for s in cost.segments:
        made, twice = s.evaluations or 0, s.guided or 0
        row = [_span(s), str(made), unit(made * s.total), str(twice), unit((made + twice) * s.total)]
        table.add_row(*(row if guided else row[:3]))
    table.add_section()
    twice = sum(s.guided or 0 for s in cost.segments)
    row = ["sample", str(cost.evaluations), unit(cost.sample), str(twice), unit(cost.guided_sample)]
    table.add_row(*(row if guided else row[:3]))
    return table


def sample_words(cost: Cost, solver: str) -> str:
    """What is said of a sample below its table, or in its place."""
    lines = []
    if cost.evaluations is None:
        lines.append(
            f"one sample: {solver} chooses its steps, so its evaluations are not known before it runs;"
        )
        lines.append(f"  {_count(cost.mean)} an evaluation on average, where they spread evenly over t")
    else:
        lines.append(f"{cost.sample_to_single_scale:.4f} of {cost.evaluations} evaluations of one scale")
    if cost.conditional:
        whole = "" if cost.sample is None else f": {_count(2 * cost.sample)} if all are guided"
        lines.append(f"a guided evaluation is two{whole}")
    return "\n".join(lines)


def step_table(found: DryRun) -> Table:
    """What a dry run measured."""
    among = f", {found.processes} processes" if found.processes > 1 else ""
    table = new_table(f"The second of two training steps, on {found.device}{among}")
    table.add_column("of a step")
    table.add_column("", justify="right")
    memory = "allocated on the device" if found.device.startswith("cuda") else "resident, the whole process"
    for name, value in (
        ("seconds", f"{found.seconds:.3f}"),
        (f"peak memory ({memory})", f"{_count(found.memory)}B"),
        ("parameters", f"{found.parameters / 1e6:.2f} M"),
        ("multiply-adds", _count(found.multiply_adds)),
        ("images", str(found.images)),
        ("loss", f"{found.loss:.4g}"),
    ):
        table.add_row(name, value)
    return table


def step_words(found: DryRun) -> str:
    """What is said below it."""
    lines = ["memory: of the process that needed most"] if found.processes > 1 else []
    return "\n".join(
        [
            *lines,
            "multiply-adds: as the network counts them for the scales that this step drew, times three for",
            "  forward and backward; recomputation, codec and the objective's own networks are not counted",
            "nothing was written",
        ]
    )


class _Unit:
    """The unit of a table: the one in which its largest number is 1 to 1000."""

    def __init__(self, largest: float) -> None:
        self.name, self.size = next(
            ((n, s) for n, s in (("T", 1e12), ("G", 1e9)) if largest >= s), ("M", 1e6)
        )

    def __call__(self, value: float) -> str:
        return f"{value / self.size:.3f}"

    def __str__(self) -> str:
        return self.name


def _count(value: float) -> str:
    unit = _Unit(value)
    return f"{unit(value)} {unit}"


def _span(segment: SegmentCost) -> str:
    return f"{segment.start:.4g} - {segment.stop:.4g}"
