"""The kinds of component: their contracts, and the entry-point groups in which plugins offer their own."""

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
        return getattr(importlib.import_module(module), attribute)


KINDS: dict[str, Kind] = {
    name: Kind(name, f"lapflow.core.{contract}", f"lapflow.{group}", key)
    for name, contract, group, key in (
        ("decomposition", "decomposition:Decomposition", "decompositions", "decomposition"),
        ("intervals", "intervals:IntervalSchedule", "intervals", "intervals"),
        ("path", "path:Path", "paths", "path"),
        ("bridge", "bridge:Bridge", "bridges", "bridge"),
        ("noise", "noise:Noise", "noises", "noise"),
        ("time_law", "time_law:TimeLaw", "time_laws", "time_law"),
        ("coupling", "coupling:Coupling", "couplings", "coupling"),
        ("prediction", "prediction:Prediction", "predictions", "prediction"),
        ("backbone", "backbone:Backbone", "backbones", "model"),
        ("codec", "codec:Codec", "codecs", "codec"),
        ("conditioner", "condition:Conditioner", "conditioners", "conditioner"),
        ("objective", "objective:Objective", "objectives", "objective"),
        ("optimizer", "optimizer:Optimizer", "optimizers", "optimizer"),
        ("solver", "solver:Solver", "solvers", "solver"),
        ("guidance", "guidance:Guidance", "guidances", "guidance"),
        ("attention", "attention:AttentionBackend", "attention", "attention"),
        ("engine", "engine:Engine", "engines", "engine"),
        ("dataset", "dataset:Dataset", "datasets", "data"),
        ("features", "features:FeatureExtractor", "features", "features"),
    )
}


def find_kind(name: str) -> Kind:
    """The kind called `name`. Raises `ConfigError` for an unknown one."""
    if name not in KINDS:
        raise ConfigError("there is no such kind of component", got=repr(name), expected=suggest(name, KINDS))
    return KINDS[name]
