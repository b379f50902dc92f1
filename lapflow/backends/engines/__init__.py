"""Engines: how a training step runs on processes and devices."""

from lapflow.backends.engines.deepspeed import DeepSpeedEngine
from lapflow.backends.engines.torch import TorchEngine

__all__ = ["DeepSpeedEngine", "TorchEngine"]
