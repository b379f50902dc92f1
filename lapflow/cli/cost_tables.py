"""The tables that `lapflow flops` prints, each with the lines below it."""

from __future__ import annotations

from rich.table import Table

from lapflow.analysis.flops import Cost, SegmentCost
from lapflow.cli.output import new_table
from lapflow.evaluation.memory import Memory

COUNTED = (
    "counted: token-wise layers, attention over the pairs seen, modulation\n"
    "not counted: embeddings of t and y, codec, the flow's and the solver's own arithmetic"
)

_RECOMPUTE = {
    False: "",
    "cheap": ", training.activation_checkpointing=cheap",
    True: ", training.activation_checkpointing=true",
}


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
    if cost.num_classes:
        whole = "" if cost.sample is None else f": {_count(2 * cost.sample)} if all are guided"
        lines.append(f"a guided evaluation is two{whole}")
    return "\n".join(lines)


def held_table(memory: Memory) -> Table:
    """What a process holds while training."""
    held = memory.held or {}
    own = next((a for a in memory.training or () if a.own), None)
    unit = _Unit(max([h.bytes for h in held.values()] + [memory.step or 0]))
    table = new_table(f"Memory of a process in training, in {unit}B")
    for name in ("held", "size", "share"):
        table.add_column(name, justify="right" if name == "size" else "left")
    for name, h in held.items():
        share = f"one of {memory.processes} parts" if h.divided and memory.processes > 1 else "whole"
        table.add_row(name, unit(h.bytes), share + (", in the CPU's memory" if h.offloaded else ""))
    if own is not None:
        table.add_row(
            "activations",
            unit(own.bytes),
            f"its {memory.share} images, {own.precision}{_RECOMPUTE[own.recompute]}",
        )
    if memory.step is not None:
        table.add_section()
        where = " on the device" if any(h.offloaded for h in held.values()) else ""
        table.add_row("together", unit(memory.step), f"if all are largest at once{where}")
    return table


def engine_words(memory: Memory, engine: str) -> str:
    """What is said above the tables of memory."""
    share = "" if memory.processes == 1 else f" on {memory.processes} processes, {memory.share} on each"
    return f"memory with engine {engine}\n{memory.batch} images a step{share}"


def activation_table(memory: Memory) -> Table:
    """Activations in both precisions, by what is recomputed, and of sampling."""
    training, sampling = memory.training or (), memory.sampling or ()
    unit = _Unit(max((a.bytes for a in (*training, *sampling)), default=0))
    table = new_table(f"Activations at their most, in {unit}B")
    table.add_column("of")
    for precision in ("fp32", "bf16 autocast"):
        table.add_column(precision, justify="right")
    images = f"{memory.share} images"
    for name, rows in (
        *(
            (f"a training step, {images}{setting}", [a for a in training if a.recompute == how])
            for how, setting in _RECOMPUTE.items()
        ),
        (
            f"an evaluation in sampling, {memory.drawn} images{', guided' if memory.guided else ''}",
            list(sampling),
        ),
    ):
        table.add_row(
            name, *((unit(a.bytes) + (" *" if a.own else "  ") for a in rows) if rows else ("-  ", "-  "))
        )
    return table


def memory_words(memory: Memory) -> str:
    """What is said below the tables."""
    lines = []
    if memory.held is None:
        lines.append("the engine does not say what a process holds")
    if memory.reason is not None:
        lines.append(f"activations are not estimated:\n  {memory.reason}")
    if own := [a.bytes for a in memory.sampling or () if a.own]:
        lines.append(
            f"*: this config's. Sampling holds the weights and an evaluation: "
            f"{_count(memory.weights + own[0])}B on one process"
        )
    lines.append(
        "left out: codec, images, what kernels take for themselves, torch.compile (docs/arithmetic.md)"
    )
    return "\n".join(lines)


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
