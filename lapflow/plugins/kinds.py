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
    name: Kind(name, f"lapflow.core.{name}:{contract}", f"lapflow.{group}", key)
    for name, contract, group, key in (
        ("decomposition", "Decomposition", "decompositions", "decomposition"),
        ("intervals", "IntervalSchedule", "intervals", "intervals"),
        ("path", "Path", "paths", "path"),
        ("bridge", "Bridge", "bridges", "bridge"),
        ("noise", "Noise", "noises", "noise"),
        ("time_law", "TimeLaw", "time_laws", "time_law"),
        ("coupling", "Coupling", "couplings", "coupling"),
        ("prediction", "Prediction", "predictions", "prediction"),
        ("backbone", "Backbone", "backbones", "model"),
        ("codec", "Codec", "codecs", "codec"),
        ("conditioner", "Conditioner", "conditioners", "conditioner"),
        ("objective", "Objective", "objectives", "objective"),
        ("optimizer", "Optimizer", "optimizers", "optimizer"),
        ("solver", "Solver", "solvers", "solver"),
        ("guidance", "Guidance", "guidances", "guidance"),
        ("attention", "AttentionBackend", "attention", "attention"),
        ("engine", "Engine", "engines", "engine"),
        ("dataset", "Dataset", "datasets", "data"),
        ("features", "FeatureExtractor", "features", "features"),
    )
}


def find_kind(name: str) -> Kind:
    """The kind called `name`. Raises `ConfigError` for an unknown one."""
    if name not in KINDS:
        raise ConfigError("there is no such kind of component", got=repr(name), expected=suggest(name, KINDS))
    return KINDS[name]
