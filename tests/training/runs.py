"""What tests ask of a run folder: its last checkpoint, its losses, and whether two checkpoints are the same
bit for bit."""

import torch

from lapflow.training.checkpoint import latest_checkpoint, load_checkpoint
from lapflow.training.events import read_events


def last(run):
    return load_checkpoint(latest_checkpoint(run / "checkpoints"))


def losses(run):
    return [e["loss"] for e in read_events(run) if e["event"] == "train"]


def same(a, b):
    """Weights, average, optimizer state and counts."""
    assert a.tensors.keys() == b.tensors.keys()
    for group in a.tensors:
        assert a.tensors[group].keys() == b.tensors[group].keys()
        for name, value in a.tensors[group].items():
            assert torch.equal(value, b.tensors[group][name]), f"{group} {name}"
    assert a.documents["state"] == b.documents["state"]
