"""A composition (`Flow`), its paths (how data and noise mix), its bridges (how segments hand over)."""

from lapflow.flows.bridges import AppendBridge, ConditionBridge, RenoiseBridge, TransitionBridge
from lapflow.flows.paths.affine import GVPPath, LinearPath, PyramidalPath, VPPath
from lapflow.flows.paths.edm import EdifyPath, EDMPath, RelayPath
from lapflow.flows.paths.vp_discrete import DiscreteVPPath

__all__ = [
    "AppendBridge",
    "ConditionBridge",
    "DiscreteVPPath",
    "EDMPath",
    "EdifyPath",
    "GVPPath",
    "LinearPath",
    "PyramidalPath",
    "RelayPath",
    "RenoiseBridge",
    "TransitionBridge",
    "VPPath",
]
