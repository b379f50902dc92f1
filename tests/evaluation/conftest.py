"""A run to evaluate: two steps of a tiny network on the digits."""

import pytest

from lapflow.config.loading import load_config
from lapflow.training.loop import train

TINY = [
    "model.width=16",
    "model.heads=2",
    "model.depth=1",
    "training.batch_size=8",
    "training.steps=2",
    "sampling.solver={name: euler, steps: 2}",
    "sampling.batch_size=16",
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Not to be written to: evaluate with `out` elsewhere."""
    return train(load_config("lapflow-digits", TINY), tmp_path_factory.mktemp("trained") / "run")
