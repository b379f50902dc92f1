"""Time and memory of one evaluation and of one training step as the work grows, beside what the multiply-adds
predict.

    python -m benchmarks.scaling [--repeats N]

Each curve changes one thing: the side of the latents, the number of scales K, the batch, or the depth. The
network is S/2 without the rest of its depth (4 blocks), so that the largest points fit a small machine.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measure import interleaved, write
from benchmarks.networks import CHANNELS, CLASSES, PATCH, inputs, lively
from lapflow.backends.attention import SDPA
from lapflow.models import MoTDiT
from lapflow.pyramids import LaplacianPyramid

BASE = {"side": 32, "levels": 2, "batch": 4, "depth": 4}
CURVES: dict[str, tuple[int, ...]] = {
    "side": (16, 32, 64, 128),
    "levels": (1, 2, 3, 4),
    "batch": (1, 2, 4, 8, 16),
    "depth": (1, 2, 4, 8, 16),
}
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "scaling.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--memory",
        type=int,
        nargs=4,
        metavar=tuple(BASE),
        help="print the bytes that one training step adds, and end",
    )
    options = parser.parse_args()
    if options.memory:
        print(added_bytes(*options.memory))
        return
    rows = []
    for knob, values in CURVES.items():
        # The largest point of the side is one image: attention there is most of the work.
        settings = [{**BASE, knob: value, **({"batch": 1} if knob == "side" else {})} for value in values]
        works = {
            f"{kind} {s[knob]}": work(kind == "step", **s)
            for s in settings
            for kind in ("evaluation", "step")
        }
        seconds = interleaved(works, options.repeats)
        base = next(s for s in settings if s[knob] == BASE[knob])
        for s in settings:
            row: dict[str, object] = {
                "changes": knob,
                **s,
                "multiply-adds": multiply_adds(**s) / multiply_adds(**base),
            }
            for kind in ("evaluation", "step"):
                mine = seconds[f"{kind} {s[knob]}"]
                row |= {f"{kind} ms": 1e3 * mine, f"{kind} ratio": mine / seconds[f"{kind} {base[knob]}"]}
            row["step MB"] = measured_bytes(**s) / 2**20
            rows.append(row)
            print(row, flush=True)
    draw(rows)
    write("scaling", rows)


def network(side: int, levels: int, depth: int) -> MoTDiT:
    bands = LaplacianPyramid(levels=levels).bands((CHANNELS, side, side))
    return lively(MoTDiT(bands, CLASSES, SDPA(), depth=depth, width=384, heads=6, patch=PATCH))  # type: ignore[return-value]


def multiply_adds(side: int, levels: int, batch: int, depth: int) -> int:
    return batch * sum(network(side, levels, depth).multiply_adds(range(levels)).values())


def work(gradient: bool, side: int, levels: int, batch: int, depth: int) -> Callable[[], None]:
    model, given = network(side, levels, depth), inputs(side, levels, batch)

    def evaluation() -> None:
        with torch.inference_mode():
            model(*given)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        torch.stack([x.square().mean() for x in model(*given)["main"].values()]).sum().backward()

    return step if gradient else evaluation


def added_bytes(side: int, levels: int, batch: int, depth: int) -> int:
    """What a training step adds to this process's largest memory: activations and gradients."""
    step = work(True, side, levels, batch, depth)
    before = max_bytes()
    step()
    return max_bytes() - before


def max_bytes() -> int:
    """This process's largest memory so far. (`getrusage` would give its parent's, where that was larger.)"""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None, "the system does not say VmHWM: this benchmark measures memory on Linux only"
    return 1024 * int(found[1])


def measured_bytes(side: int, levels: int, batch: int, depth: int) -> int:
    """The same, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.scaling",
        "--memory",
        *map(str, (side, levels, batch, depth)),
    ]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def draw(rows: list[dict[str, object]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.4), layout="constrained")
    panels = figure.subplots(2, len(CURVES))
    names = {"side": "side of the latents", "levels": "scales K", "batch": "batch", "depth": "blocks"}
    for (above, below), knob in zip(panels.T, CURVES):
        mine = [row for row in rows if row["changes"] == knob]
        x = [row[knob] for row in mine]
        above.plot(x, [row["multiply-adds"] for row in mine], "k--", label="multiply-adds")
        for kind, marker in (("evaluation", "o"), ("step", "s")):
            above.plot(x, [row[f"{kind} ratio"] for row in mine], marker=marker, label=f"{kind}, time")
        below.plot(x, [row["step MB"] for row in mine], marker="s", color="C1", label="step, memory added")
        for panel in (above, below):
            panel.set_xscale("log", base=2)
            panel.set_xticks(x, [str(v) for v in x])
            panel.minorticks_off()
            panel.spines[["top", "right"]].set_visible(False)
        above.set_yscale("log", base=2)
        above.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if knob == "levels":
            above.set_yticks([0.8, 0.9, 1, 1.1])
        below.set_xlabel(names[knob])
        below.set_ylim(bottom=0)
    panels[0, 0].set_ylabel("times the base point")
    panels[1, 0].set_ylabel("MB")
    panels[0, 0].legend(frameon=False, fontsize=8)
    panels[1, 0].legend(frameon=False, fontsize=8)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
