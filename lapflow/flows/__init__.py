"""A composition (`Flow`), paths (how data and noise mix along time), bridges (how one segment hands over
to the next)."""

from lapflow.flows.bridges.append import AppendBridge
from lapflow.flows.bridges.condition import ConditionBridge
from lapflow.flows.bridges.renoise import RenoiseBridge
from lapflow.flows.bridges.transition import TransitionBridge
from lapflow.flows.paths.edm import EdifyPath, EDMPath, RelayPath
from lapflow.flows.paths.gvp import GVPPath
from lapflow.flows.paths.linear import LinearPath
from lapflow.flows.paths.pyramidal import PyramidalPath
from lapflow.flows.paths.vp import VPPath
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
