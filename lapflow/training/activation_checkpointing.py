"""Recomputation of activations in the backward pass: memory for time."""

from __future__ import annotations

import functools
from typing import Literal

from torch.utils.checkpoint import checkpoint

from lapflow.core.backbone import Backbone
from lapflow.core.remaking import under_remaking


def checkpoint_activations(model: Backbone, how: Literal[True, "cheap"]) -> None:
    """Make each unit of the network keep less for the backward pass, which computes it anew: True, all but
    its inputs (Chen et al. 2016); "cheap", norms and activation functions alone (Korthikanti et al. 2022), if
    the network `remakes` them."""
    for unit in model.units():
        if how == "cheap":
            unit.forward = under_remaking(unit.forward)
        else:  # the networks draw no random numbers, so their state need not be kept for the second pass
            unit.forward = functools.partial(
                checkpoint, unit.forward, use_reentrant=False, preserve_rng_state=False
            )
