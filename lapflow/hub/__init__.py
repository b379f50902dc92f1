"""lapflow at home in diffusers and on the Hub: a pipeline with diffusers' interface, its network as a
diffusers model, folders that both libraries load. The two names need the extra `[diffusers]`, and raise
`BackendError` without it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {"LapFlowModel": "lapflow.hub.model", "LapFlowPipeline": "lapflow.hub.pipeline"}
__all__ = ["LapFlowModel", "LapFlowPipeline"]

if TYPE_CHECKING:
    from lapflow.hub.model import LapFlowModel
    from lapflow.hub.pipeline import LapFlowPipeline


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lapflow.hub' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
