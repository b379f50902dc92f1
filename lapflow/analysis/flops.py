"""Multiply-adds of a composition: of an evaluation in each segment, of a sample, and against one scale alone.

Counted: the network's token-wise layers, attention over the pairs that the mask lets be seen, and modulation.
Left out: the embeddings of t and y, the codec, and what the flow and the solver compute themselves. A guided
evaluation is two. How often a solver evaluates comes from a run with a network that says nothing: so the
solver's own steps, the path's own grid and the bridges say it, and nothing restates them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lapflow.config.building import (
    build_codec,
    build_conditioner,
    build_dataset,
    build_flow,
    build_guidance,
    build_model,
    build_solver,
    require_sampling,
)
from lapflow.config.loading import load_config, resolved
from lapflow.config.schema import Config
from lapflow.core.backbone import MAIN, Backbone, Heads
from lapflow.core.condition import Condition
from lapflow.core.intervals import Segment
from lapflow.core.solver import Solver
from lapflow.core.state import Shape, map_state
from lapflow.flows.flow import Flow
from lapflow.sampling.sampler import FlowField, integrate
from lapflow.util.random import keyed_generator


@dataclass(frozen=True)
class SegmentCost:
    """One evaluation of one sample in a segment, by part; and how many the config's solver makes there, of
    which `guided` twice over (None: the solver chooses its steps by what it finds)."""

    start: float
    stop: float
    scales: tuple[int, ...]
    parts: Mapping[str, int]
    evaluations: int | None = None
    guided: int | None = None

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Cost:
    """`single` counts the same network with one scale; `conditional`: guidance has something to omit."""

    parameters: int
    conditional: bool
    segments: tuple[SegmentCost, ...]
    single: Mapping[str, int]

    @property
    def single_scale(self) -> int:
        return sum(self.single.values())

    @property
    def mean(self) -> float:
        """The time-weighted mean over t: the cost of an evaluation when steps are uniform in t."""
        return sum((s.stop - s.start) * s.total for s in self.segments)

    @property
    def ratio_to_single_scale(self) -> float:
        return self.mean / self.single_scale

    def ratio_of(self, parts: Collection[str], per_scale: bool = False) -> float:
        """`ratio_to_single_scale` of these parts; `per_scale`: with an evaluation for each active scale."""
        weights = [(s.stop - s.start) * (len(s.scales) if per_scale else 1) for s in self.segments]
        mean = sum(weight * s.parts[part] for weight, s in zip(weights, self.segments) for part in parts)
        return mean / sum(self.single[part] for part in parts)

    @property
    def evaluations(self) -> int | None:
        """Of one sample; None where that is not known beforehand."""
        counts = [s.evaluations for s in self.segments]
        return None if None in counts else sum(n for n in counts if n)

    @property
    def sample(self) -> int | None:
        """Of one sample, without guidance."""
        return None if self.evaluations is None else self.of([s.evaluations or 0 for s in self.segments])

    @property
    def guided_sample(self) -> int | None:
        """Of one sample, with the config's guidance."""
        if self.evaluations is None:
            return None
        return self.of([(s.evaluations or 0) + (s.guided or 0) for s in self.segments])

    @property
    def sample_to_single_scale(self) -> float | None:
        """A sample, over as many evaluations of one scale."""
        if self.sample is None or not self.evaluations:
            return None
        return self.sample / (self.evaluations * self.single_scale)

    def of(self, evaluations: Collection[int]) -> int:
        """Of so many evaluations in each segment."""
        return sum(n * s.total for n, s in zip(evaluations, self.segments, strict=True))

    def document(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "parameters": self.parameters,
            "conditional": self.conditional,
            "segments": [{**vars(s), "parts": dict(s.parts), "total": s.total} for s in self.segments],
            "single": dict(self.single),
            "mean": self.mean,
            "single_scale": self.single_scale,
            "ratio_to_single_scale": self.ratio_to_single_scale,
            "evaluations": self.evaluations,
            "sample": self.sample,
            "guided_sample": self.guided_sample,
            "sample_to_single_scale": self.sample_to_single_scale,
        }


def cost(config: Config) -> Cost:
    """The counts of a config's network and solver; nothing is allocated (the network is built on the meta
    device). Raises `ConfigError` where solver or guidance do not fit the flow."""
    flow, model = _on_meta(config)
    solver, guidance = build_solver(config), build_guidance(config)
    require_sampling(config, solver, guidance, flow)
    times, segments = evaluation_times(flow, solver), []
    for segment in flow.segments:
        scales, evaluations, guided = seen(flow, segment), None, None
        if times is not None:
            at = times[segment.index]
            evaluations, guided = len(at), sum(map(guidance.active, at)) if model.condition else 0
        parts = model.multiply_adds(scales)
        segments.append(SegmentCost(segment.start, segment.stop, scales, parts, evaluations, guided))
    single = resolved(config)
    single["flow"] = {
        "decomposition": {"name": "identity", "axes": flow.decomposition.axes},
        "intervals": {"name": "cumulative", "starts": [0.0]},
    }
    if isinstance(single["model"].get("patch"), list | tuple):
        single["model"] = {**single["model"], "patch": single["model"]["patch"][-1:]}
    _, alone = _on_meta(load_config(single))
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters, bool(model.condition), tuple(segments), alone.multiply_adds((0,)))


def seen(flow: Flow, segment: Segment) -> tuple[int, ...]:
    """The scales that the network is given in a segment, coarse to fine."""
    return segment.scales if flow.representation == "bands" else (segment.finest,)


def _on_meta(config: Config) -> tuple[Flow, Backbone]:
    flow, dataset, codec = build_flow(config), build_dataset(config), build_codec(config)
    parts = build_conditioner(config, dataset.class_names).parts()
    return flow, build_model(config, flow, codec.latent_shape(dataset.shape), parts, torch.device("meta"))


class _Silent(FlowField):
    """Predicts zeros in every head that the solver reads, and keeps the times at which it was asked."""

    def __init__(self, flow: Flow, segment: Segment, shape: Shape, heads: tuple[str, ...]) -> None:
        super().__init__(flow, segment, shape)
        self.heads, self.times = (MAIN, *heads), list[float]()

    def predict(self, state: Mapping[int, Tensor], t: float) -> Heads:
        self.times.append(t)
        return {head: map_state(torch.zeros_like, state) for head in self.heads}


def evaluation_times(flow: Flow, solver: Solver) -> list[list[float]] | None:
    """The times at which sampling evaluates the network, segment by segment; None for a solver that
    chooses its steps by what it finds. Guidance doubles an evaluation and does not add one."""
    if not solver.fixed_work:
        return None
    shape = flow.decomposition.smallest
    fields: list[_Silent] = []

    def field(segment: Segment, condition: Condition) -> _Silent:
        fields.append(_Silent(flow, segment, shape, solver.heads))
        return fields[-1]

    generator = keyed_generator("rehearsal")
    noise = flow.draw_noise(shape, 1, generator, dtype=torch.float64, device="cpu")
    integrate(flow, field, noise, solver, generator=generator)
    return [f.times for f in fields]
