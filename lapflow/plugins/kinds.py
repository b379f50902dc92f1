"""The kinds of component: the contract of each, and the entry-point group in which a distribution offers its own."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from lapflow.core.component import Component
from lapflow.core.errors import ConfigError, suggest


@dataclass(frozen=True)
class Kind:
    """One extension point: its `name`, its `contract` as 'module:Class' (imported when needed), its entry-point `group`."""

    name: str
    contract: str
    group: str

    def load_contract(self) -> type[Component]:
        module, _, attribute = self.contract.partition(":")
        loaded: type[Component] = getattr(importlib.import_module(module), attribute)
        return loaded


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("decomposition", "lapflow.core.decomposition:Decomposition", "lapflow.decompositions"),
        Kind("intervals", "lapflow.core.intervals:IntervalSchedule", "lapflow.intervals"),
        Kind("path", "lapflow.core.path:Path", "lapflow.paths"),
        Kind("bridge", "lapflow.core.bridge:Bridge", "lapflow.bridges"),
        Kind("backbone", "lapflow.core.backbone:Backbone", "lapflow.backbones"),
        Kind("codec", "lapflow.core.codec:Codec", "lapflow.codecs"),
        Kind("objective", "lapflow.core.objective:Objective", "lapflow.objectives"),
        Kind("solver", "lapflow.core.solver:Solver", "lapflow.solvers"),
        Kind("guidance", "lapflow.core.guidance:Guidance", "lapflow.guidances"),
        Kind("attention", "lapflow.core.attention:AttentionBackend", "lapflow.attention"),
        Kind("engine", "lapflow.core.engine:Engine", "lapflow.engines"),
        Kind("dataset", "lapflow.core.dataset:Dataset", "lapflow.datasets"),
        Kind("features", "lapflow.core.features:FeatureExtractor", "lapflow.features"),
    )
}


def find_kind(name: str) -> Kind:
    """The kind called `name`. Raises `ConfigError` for an unknown one."""
    if name not in KINDS:
        raise ConfigError("there is no such kind of component", got=repr(name), expected=suggest(name, KINDS))
    return KINDS[name]
