"""Paths (how data and noise mix along time), bridges (how one segment hands over to the next), and guidance."""

from lapflow.flows.append import AppendBridge
from lapflow.flows.guidance import ClassifierFreeGuidance
from lapflow.flows.gvp import GVPPath
from lapflow.flows.linear import LinearPath
from lapflow.flows.vp import VPPath

__all__ = ["AppendBridge", "ClassifierFreeGuidance", "GVPPath", "LinearPath", "VPPath"]
