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

from lapflow.plugins.kits.attention import AttentionConformance
from lapflow.plugins.kits.backbone import BackboneConformance
from lapflow.plugins.kits.bridge import BridgeConformance
from lapflow.plugins.kits.codec import CodecConformance
from lapflow.plugins.kits.conditioner import ConditionerConformance
from lapflow.plugins.kits.coupling import CouplingConformance
from lapflow.plugins.kits.dataset import DatasetConformance
from lapflow.plugins.kits.decomposition import DecompositionConformance
from lapflow.plugins.kits.engine import EngineConformance
from lapflow.plugins.kits.features import FeaturesConformance
from lapflow.plugins.kits.guidance import GuidanceConformance
from lapflow.plugins.kits.intervals import IntervalsConformance
from lapflow.plugins.kits.noise import NoiseConformance
from lapflow.plugins.kits.objective import ObjectiveConformance
from lapflow.plugins.kits.optimizer import OptimizerConformance
from lapflow.plugins.kits.path import PathConformance
from lapflow.plugins.kits.prediction import PredictionConformance
from lapflow.plugins.kits.solver import SolverConformance
from lapflow.plugins.kits.time_law import TimeLawConformance

KITS = {
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
