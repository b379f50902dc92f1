"""Multi-scale flow-matching generative models, composed by config.

The names below are imported when they are first used: `import lapflow` alone loads neither torch nor anything
heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Flow": "lapflow.flows.flow",
    "LapFlowPipeline": "lapflow.hub",
    "LapflowError": "lapflow.core.errors",
    "Pipeline": "lapflow.sampling.pipeline",
    "compose": "lapflow.flows.compose",
    "load": "lapflow.sampling.pipeline",
    "load_config": "lapflow.config.loading",
    "register": "lapflow.plugins.registry",
    "sample": "lapflow.sampling.sampler",
    "train": "lapflow.training.loop",
}
# LapFlowPipeline needs an extra, and `from lapflow import *` must not.
__all__ = [
    "Flow",
    "LapflowError",
    "Pipeline",
    "compose",
    "load",
    "load_config",
    "register",
    "sample",
    "train",
]

if TYPE_CHECKING:
    from lapflow.config.loading import load_config
    from lapflow.core.errors import LapflowError
    from lapflow.flows.compose import compose
    from lapflow.flows.flow import Flow
    from lapflow.hub import LapFlowPipeline as LapFlowPipeline
    from lapflow.plugins.registry import register
    from lapflow.sampling.pipeline import Pipeline, load
    from lapflow.sampling.sampler import sample
    from lapflow.training.loop import train


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lapflow' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
