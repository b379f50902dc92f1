"""The rows of LapFlow's paper, with the arithmetic that it publishes and the arithmetic that our counts give.

Source: *Laplacian Multi-scale Flow Matching for Generative Modeling*, ICLR 2026, CelebA-HQ 256x256: GFLOPs of
an evaluation, and milliseconds. Its absolute figures are on a scale of their own, so what can be compared is
their ratio to LFM's.

python -m benchmarks.published
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure import table
from lapflow.analysis.flops import cost
from lapflow.config.loading import load_config

SOURCE = "LapFlow, ICLR 2026"
SINGLE = 22.1
"""GFLOPs of LFM-L/2, one scale: what the others are held against."""
MILLISECONDS = {"LapFlow": 18.9, "LFM": 19.1}
"""Of an evaluation at 256x256."""
ROUNDING = 0.05
"""The published GFLOPs have one decimal."""
WITHOUT_MODULATION = ("linear", "attention")
"""The parts of a count that leaves modulation out, as published ones may."""


@dataclass(frozen=True)
class Row:
    """A row of the paper and the recipe that stands for it. `gflops` is None where none are published.
    `all_read`: a count in which each of the separate networks reads the tokens of all active scales, of a
    recipe with one expert for all."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    gflops: float | None = None
    all_read: bool = False


L2 = "lapflow-celebahq256"
SEPARATE = "lapflow-separate-celebahq256"
ROWS = (
    Row("LFM-L/2, one scale", "lfm-celebahq256", gflops=SINGLE),
    Row("LapFlow: K = 2, T = .5", L2, gflops=16.5),
    Row("separate, unseen skipped", SEPARATE, gflops=38.9),
    Row("separate, all read, causal", L2, ("model.experts=shared",), gflops=38.9, all_read=True),
    Row("separate, all read, no mask", SEPARATE, ("model.mask=none",), gflops=38.9),
    Row("mask none", L2, ("model.mask=none",)),
    Row("mask self", L2, ("model.mask=self",)),
    Row("T = .1", L2, ("flow.intervals.starts=[0,0.1]",)),
    Row("T = .2", L2, ("flow.intervals.starts=[0,0.2]",)),
    Row("T = .9", L2, ("flow.intervals.starts=[0,0.9]",)),
    Row("K = 1", "lapflow-k1-celebahq256"),
    Row("K = 3, T = .33, .67", "lapflow-k3-celebahq256"),
)


@dataclass(frozen=True)
class Implied:
    """What a row implies. `ratio` and `unmodulated` are ours, to one scale; `published` is the paper's,
    `between` what the rounding of its two figures leaves open (None for the single scale that all are held
    against)."""

    row: Row
    multiply_adds: float
    ratio: float
    unmodulated: float
    published: float | None
    between: tuple[float, float] | None

    @property
    def agrees(self) -> bool | None:
        """Whether one of our two ratios is what the published figures say, within their rounding; None where
        there are none."""
        return (
            None
            if self.between is None
            else any(self.between[0] <= r <= self.between[1] for r in (self.ratio, self.unmodulated))
        )


def implied() -> list[Implied]:
    """What each row of the paper implies. Nothing is allocated."""
    return [_implied(row) for row in ROWS]


def _implied(row: Row) -> Implied:
    found = cost(load_config(row.recipe, row.overrides))
    published = between = None
    if row.gflops is not None:
        published = row.gflops / SINGLE
    if row.gflops not in (None, SINGLE):
        between = (row.gflops - ROUNDING) / (SINGLE + ROUNDING), (row.gflops + ROUNDING) / (SINGLE - ROUNDING)
    ratio = found.ratio_of(found.single, row.all_read)
    return Implied(
        row,
        ratio * found.single_scale,
        ratio,
        found.ratio_of(WITHOUT_MODULATION, row.all_read),
        published,
        between,
    )


def lines(rows: Sequence[Implied]) -> str:
    """The rows as a table, and what is to be said of them."""
    single = next(r for r in rows if r.row.gflops == SINGLE)
    causal = next(r for r in rows if r.agrees)
    ours, theirs = MILLISECONDS["LapFlow"], MILLISECONDS["LFM"]
    shown = [
        {
            "row": r.row.name,
            "GFLOPs published": "-" if r.row.gflops is None else f"{r.row.gflops:g}",
            "ratio published": "-" if r.published is None else f"{r.published:.4f}",
            "ratio counted": f"{r.ratio:.4f}",
            "without modulation": f"{r.unmodulated:.4f}",
            "counted in G": f"{r.multiply_adds / 1e9:.2f}",
            "": "reference" if r is single else {None: "", True: "agrees", False: "differs"}[r.agrees],
        }
        for r in rows
    ]
    return (
        f"An evaluation of L/2 on 4x32x32 latents, over that of one scale; published: {SOURCE}\n\n"
        f"{table(shown)}\n\n"
        "agrees: a counted ratio is what the published figures say, within their rounding\n"
        f"absolute figures: ours are {single.multiply_adds / 1e9 / SINGLE:.2f} times the published ones\n"
        f"time: {ours:g} ms an evaluation of LapFlow and {theirs:g} ms of LFM are published, "
        f"{ours / theirs:.3f} of it, where the multiply-adds are {causal.ratio:.3f}"
    )


if __name__ == "__main__":
    print(lines(implied()))
