"""Shared set-up: one thread per worker (two workers share two cores), a hypothesis profile without wall-clock
limits."""

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile(
    "lapflow", deadline=None, max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lapflow")
