"""Activation checkpointing (Chen et al. 2016): memory for time."""

from __future__ import annotations

import functools

from torch.utils.checkpoint import checkpoint

from lapflow.core.backbone import Backbone


def checkpoint_activations(model: Backbone) -> None:
    """Make each unit of the network keep its inputs alone for the backward pass, which computes the rest
    anew."""
    for unit in model.units():
        # the networks draw no random numbers, so their state need not be kept for the second pass
        unit.forward = functools.partial(
            checkpoint, unit.forward, use_reentrant=False, preserve_rng_state=False
        )
