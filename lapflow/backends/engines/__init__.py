"""Training engines: how a step runs on one or many processes."""

from lapflow.backends.engines.torch import TorchEngine, resolve_device

__all__ = ["TorchEngine", "resolve_device"]
