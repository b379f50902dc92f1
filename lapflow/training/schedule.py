"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from lapflow.config.schema import Decay


def learning_rate(step: int, steps: int, *, peak: float, warmup: int, decay: Decay, final: float) -> float:
    """The rate of step `step` (0-based) of `steps`: linear warm-up to `peak`, then decay to `final` times the
    peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    shape = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress}[
        decay
    ]
    return peak * (shape if decay == "constant" else final + (1 - final) * shape)
