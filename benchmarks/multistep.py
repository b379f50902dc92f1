"""Frechet ratio of a run's samples by network evaluations, for one-step and multistep solvers.

    python -m benchmarks.multistep RUN [--num 1000] [--seeds 1 2] [--evaluations 4 6 8 ...]

The evaluations are shared among the segments as evenly as their number allows, the later segments first.
`ab2` keeps its history across entries where the velocity is continuous, `ab2, restarted` does not.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from statistics import fmean

from torch import Tensor

import lapflow
from benchmarks.measure import write
from lapflow.config.building import build_features
from lapflow.core.field import Field
from lapflow.core.intervals import Segment
from lapflow.core.solver import History, Observer, Statistics
from lapflow.core.state import State
from lapflow.evaluation.evaluate import evaluate_images
from lapflow.sampling.pipeline import Pipeline
from lapflow.solvers import AdamsBashforth2, Euler, Heun
from lapflow.solvers.fixed_step import FixedSteps
from lapflow.util.random import Generators


class Restarted(AdamsBashforth2):
    """Starts anew in every segment."""

    def solve(
        self,
        field: Field,
        state: Mapping[int, Tensor],
        segment: Segment,
        generator: Generators | None = None,
        observe: Observer | None = None,
        history: History | None = None,
    ) -> tuple[State, Statistics]:
        return super().solve(field, state, segment, generator, observe)


SOLVERS: dict[str, tuple[type[FixedSteps[Field]], int]] = {
    "euler": (Euler, 1),
    "ab2": (AdamsBashforth2, 1),
    "ab2, restarted": (Restarted, 1),
    "heun": (Heun, 2),
}
"""Each solver with its evaluations a step."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--num", type=int, default=1000, help="samples of each measurement")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="sampling seeds, averaged")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[4, 6, 8, 10, 12, 16, 20, 40])
    options = parser.parse_args()
    pipeline = lapflow.load(options.run)
    rows = []
    for evaluations in options.evaluations:
        row: dict[str, object] = {"evaluations": evaluations}
        for name, (solver, each) in SOLVERS.items():
            if steps := shared(evaluations, each, len(pipeline.flow.segments)):
                ratios = [ratio(pipeline, solver(steps=steps), options.num, seed) for seed in options.seeds]
                row[name] = f"{fmean(ratios):.3f}"
        rows.append(row)
        print(row, flush=True)
    write("multistep", rows)


def shared(evaluations: int, each: int, segments: int) -> list[int] | None:
    """The steps of each segment; None where the evaluations are no whole steps, or fewer than segments."""
    steps, rest = divmod(evaluations, each)
    return None if rest or steps < segments else [(steps + i) // segments for i in range(segments)]


def ratio(pipeline: Pipeline, solver: FixedSteps[Field], num: int, seed: int) -> float:
    """The Frechet ratio of `num` samples, in the features of the run's config."""
    samples, dataset = pipeline.sample(num, solver=solver, seed=seed), pipeline.dataset
    features = build_features(pipeline.config, dataset.grey_levels)
    return float(evaluate_images(samples.images, None, dataset, features)["frechet_ratio"])


if __name__ == "__main__":
    main()
