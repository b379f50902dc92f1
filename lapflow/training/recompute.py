"""Activation recomputation (Chen et al. 2016): memory for time."""

from __future__ import annotations

import functools

from torch.utils.checkpoint import checkpoint

from lapflow.core.backbone import Backbone
from lapflow.core.errors import ConfigError


def recompute(model: Backbone) -> None:
    """Make each unit of the network keep its inputs only, and compute its activations anew in the backward pass.

    Raises `ConfigError` for a network that names no units.
    """
    units = model.units()
    if not units:
        raise ConfigError("the network has no units to recompute", got=type(model).__name__, expected="training.recompute=false")
    for unit in units:
        # The networks draw no random numbers, so their state need not be kept for the second pass.
        unit.forward = functools.partial(checkpoint, unit.forward, use_reentrant=False, preserve_rng_state=False)
