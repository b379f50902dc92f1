"""Paths (how data and noise mix along time), bridges (how one segment hands over to the next), and
guidance."""

from lapflow.flows.append import AppendBridge
from lapflow.flows.condition import ConditionBridge
from lapflow.flows.edm import EdifyPath, EDMPath, RelayPath
from lapflow.flows.guidance import ClassifierFreeGuidance
from lapflow.flows.gvp import GVPPath
from lapflow.flows.linear import LinearPath
from lapflow.flows.pyramidal import PyramidalPath
from lapflow.flows.renoise import RenoiseBridge
from lapflow.flows.transition import TransitionBridge
from lapflow.flows.vp import VPPath
from lapflow.flows.vp_discrete import DiscreteVPPath

__all__ = [
    "AppendBridge",
    "ClassifierFreeGuidance",
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
