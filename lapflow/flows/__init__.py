"""A composition (`Flow`), paths (how data and noise mix along time), bridges (how one segment hands over
to the next)."""

from lapflow.flows.bridges import AppendBridge, ConditionBridge, RenoiseBridge, TransitionBridge
from lapflow.flows.paths.affine import GVPPath, LinearPath, VPPath
from lapflow.flows.paths.edm import EdifyPath, EDMPath, RelayPath
from lapflow.flows.paths.pyramidal import PyramidalPath
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
