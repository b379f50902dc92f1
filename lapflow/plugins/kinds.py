"""The kinds of component: the contract of each, and the entry-point group in which a distribution offers its
own."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from lapflow.core.component import Component
from lapflow.core.errors import ConfigError, suggest


@dataclass(frozen=True)
class Kind:
    """One extension point: its `name`, its `contract` as 'module:Class' (imported when needed), its
    entry-point `group`, and the `key` under which a config names a component of it."""

    name: str
    contract: str
    group: str
    key: str

    def load_contract(self) -> type[Component]:
        module, _, attribute = self.contract.partition(":")
        loaded: type[Component] = getattr(importlib.import_module(module), attribute)
        return loaded


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "decomposition",
            "lapflow.core.decomposition:Decomposition",
            "lapflow.decompositions",
            "decomposition",
        ),
        Kind("intervals", "lapflow.core.intervals:IntervalSchedule", "lapflow.intervals", "intervals"),
        Kind("path", "lapflow.core.path:Path", "lapflow.paths", "path"),
        Kind("bridge", "lapflow.core.bridge:Bridge", "lapflow.bridges", "bridge"),
        Kind("noise", "lapflow.core.noise:Noise", "lapflow.noises", "noise"),
        Kind("time_law", "lapflow.core.time_law:TimeLaw", "lapflow.time_laws", "time_law"),
        Kind("coupling", "lapflow.core.coupling:Coupling", "lapflow.couplings", "coupling"),
        Kind("prediction", "lapflow.core.prediction:Prediction", "lapflow.predictions", "prediction"),
        Kind("backbone", "lapflow.core.backbone:Backbone", "lapflow.backbones", "model"),
        Kind("codec", "lapflow.core.codec:Codec", "lapflow.codecs", "codec"),
        Kind("conditioner", "lapflow.core.condition:Conditioner", "lapflow.conditioners", "conditioner"),
        Kind("objective", "lapflow.core.objective:Objective", "lapflow.objectives", "objective"),
        Kind("optimizer", "lapflow.core.optimizer:Optimizer", "lapflow.optimizers", "optimizer"),
        Kind("solver", "lapflow.core.solver:Solver", "lapflow.solvers", "solver"),
        Kind("guidance", "lapflow.core.guidance:Guidance", "lapflow.guidances", "guidance"),
        Kind("attention", "lapflow.core.attention:AttentionBackend", "lapflow.attention", "attention"),
        Kind("engine", "lapflow.core.engine:Engine", "lapflow.engines", "engine"),
        Kind("dataset", "lapflow.core.dataset:Dataset", "lapflow.datasets", "data"),
        Kind("features", "lapflow.core.features:FeatureExtractor", "lapflow.features", "features"),
    )
}


def find_kind(name: str) -> Kind:
    """The kind called `name`. Raises `ConfigError` for an unknown one."""
    if name not in KINDS:
        raise ConfigError("there is no such kind of component", got=repr(name), expected=suggest(name, KINDS))
    return KINDS[name]
