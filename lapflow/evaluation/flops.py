"""Multiply-adds of a composition: per segment, per evaluation, per sample, and against one scale alone.

Counted: the network's token-wise layers, attention over the pairs that the mask lets be seen, and modulation. Left out:
the embeddings of t and y, the codec, and guidance (a guided evaluation is two).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lapflow.config.building import build_codec, build_dataset, build_flow, build_model
from lapflow.config.loading import load_config, resolved
from lapflow.config.schema import Config
from lapflow.core.backbone import Backbone
from lapflow.core.flow import Flow


@dataclass(frozen=True)
class SegmentCost:
    """One evaluation of one sample in a segment."""

    start: float
    stop: float
    scales: tuple[int, ...]
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Cost:
    """`mean` is the time-weighted mean over the clock: the cost of an evaluation when steps are uniform in t."""

    parameters: int
    segments: tuple[SegmentCost, ...]
    single_scale: int

    @property
    def mean(self) -> float:
        return sum((s.stop - s.start) * s.total for s in self.segments)

    @property
    def ratio_to_single_scale(self) -> float:
        return self.mean / self.single_scale


def cost(config: Config) -> Cost:
    """Parameters and multiply-adds of a config's network; nothing is allocated (the network is built on the meta device)."""
    flow, model = _on_meta(config)
    seen = [s.scales if flow.view == "bands" else (s.finest,) for s in flow.segments]
    segments = tuple(SegmentCost(s.start, s.stop, k, model.multiply_adds(k)) for s, k in zip(flow.segments, seen, strict=True))
    single = resolved(config)
    single["flow"] = {"decomposition": {"name": "identity"}, "intervals": {"name": "cumulative", "starts": [0.0]}}
    if isinstance(single["model"].get("patch"), list | tuple):
        single["model"] = {**single["model"], "patch": single["model"]["patch"][-1]}
    _, alone = _on_meta(load_config(single))
    return Cost(sum(p.numel() for p in model.parameters()), segments, sum(alone.multiply_adds((0,)).values()))


def _on_meta(config: Config) -> tuple[Flow, Backbone]:
    flow, dataset, codec = build_flow(config), build_dataset(config), build_codec(config)
    return flow, build_model(config, flow, codec.latent_shape(dataset.shape), dataset.num_classes, torch.device("meta"))
