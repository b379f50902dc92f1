"""A kit of tests per contract, for plugin authors and for our own components. It needs no pytest to import.

Subclass the kit of your contract in a test file, say how the component is made, and pytest runs the
contract's promises:

    from lapflow.plugins.conformance import DecompositionConformance

    class TestMine(DecompositionConformance):
        def make(self):
            return Mine(levels=3)

The class attributes of a kit (shapes, tolerances) can be overridden. Where a kit needs another component (a
bridge needs a path), it brings a plain one of its own.
"""

from __future__ import annotations

from typing import Any

from lapflow.plugins.kits.base import Conformance
from lapflow.plugins.kits.data import (
    CodecConformance,
    ConditionerConformance,
    DatasetConformance,
    FeaturesConformance,
)
from lapflow.plugins.kits.decomposition import DecompositionConformance
from lapflow.plugins.kits.draws import (
    CouplingConformance,
    IntervalsConformance,
    NoiseConformance,
    TimeLawConformance,
)
from lapflow.plugins.kits.network import AttentionConformance, BackboneConformance
from lapflow.plugins.kits.path import BridgeConformance, PathConformance, PredictionConformance
from lapflow.plugins.kits.sampling import GuidanceConformance, SolverConformance
from lapflow.plugins.kits.training import EngineConformance, ObjectiveConformance, OptimizerConformance

KITS: dict[str, type[Conformance[Any]]] = {
    "decomposition": DecompositionConformance,
    "intervals": IntervalsConformance,
    "path": PathConformance,
    "bridge": BridgeConformance,
    "noise": NoiseConformance,
    "time_law": TimeLawConformance,
    "coupling": CouplingConformance,
    "prediction": PredictionConformance,
    "backbone": BackboneConformance,
    "codec": CodecConformance,
    "conditioner": ConditionerConformance,
    "objective": ObjectiveConformance,
    "optimizer": OptimizerConformance,
    "solver": SolverConformance,
    "guidance": GuidanceConformance,
    "attention": AttentionConformance,
    "engine": EngineConformance,
    "dataset": DatasetConformance,
    "features": FeaturesConformance,
}
"""The kit of each kind."""

__all__ = [
    "KITS",
    "AttentionConformance",
    "BackboneConformance",
    "BridgeConformance",
    "CodecConformance",
    "ConditionerConformance",
    "CouplingConformance",
    "DatasetConformance",
    "DecompositionConformance",
    "EngineConformance",
    "FeaturesConformance",
    "GuidanceConformance",
    "IntervalsConformance",
    "NoiseConformance",
    "ObjectiveConformance",
    "OptimizerConformance",
    "PathConformance",
    "PredictionConformance",
    "SolverConformance",
    "TimeLawConformance",
]
