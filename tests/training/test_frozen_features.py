"""An objective may agree with a frozen feature extractor: it is used, known by its digest, and not trained or
saved."""

import importlib
import sys

import pytest
from torch import nn

from lapflow import register
from lapflow.config.building import build
from lapflow.config.loading import load_config
from lapflow.core.errors import CheckpointError
from lapflow.core.objective import Objective
from lapflow.features.module import ModuleFeatures
from lapflow.objectives.mse import squared_errors
from lapflow.plugins.registry import unregister
from lapflow.training.events import read_events
from lapflow.training.loop import train
from tests.training.runs import last

pytestmark = pytest.mark.slow

ENCODER = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 3, 8, bias=False)
        self.net.weight.data = torch.sin(torch.arange(192.0) * {frequency}).view(3, 1, 8, 8) / 8

    def forward(self, x):
        return self.net(x).flatten(1)
"""


class Featured(Objective):
    """The squared error, and the pooled tokens of a hidden state, projected, are near the features of the
    clean samples."""

    hidden = ("block1",)

    def __init__(self, *, target: str) -> None:
        self.target = target

    def build(self, flow, bands, num_classes):
        super().build(flow, bands, num_classes)
        self.frozen["features"] = ModuleFeatures(self.target)
        self.module = nn.Linear(16, 3)

    def __call__(self, network, point):
        heads, hidden = network(point.state, point.t, point.condition, return_hidden=self.hidden)
        clean = self.flow.decomposition.synthesize(point.data, point.segment.finest)
        wanted = self.frozen["features"](clean).float()
        losses = squared_errors(heads, point)
        for k, tokens in hidden["block1"].items():
            losses[f"align{k}"] = (self.module(tokens.mean(1)) - wanted).square().mean()
        return losses


@pytest.fixture(autouse=True)
def known():
    register(Featured, name="test-featured")
    yield
    unregister("objective", "test-featured")


def encoder(folder, frequency):
    """A module of that name whose weights are a function of `frequency`."""
    (folder / "frozen_encoder.py").write_text(ENCODER.format(frequency=frequency))
    sys.modules.pop("frozen_encoder", None)
    importlib.invalidate_caches()


def config(steps):
    return load_config(
        "lapflow-digits",
        [
            *["model.width=16", "model.heads=2", "model.depth=1", "training.batch_size=16"],
            *["training.warmup_steps=0", "training.log_every=10", "training.learning_rate=1e-2"],
            *[f"training.steps={steps}", "training.checkpoint_every=20", "training.decay=constant"],
            "flow={decomposition: identity, intervals: {name: cumulative, starts: [0.0]}, path: linear}",
            "model.patch=2",
            "objective={name: test-featured, target: 'frozen_encoder:Encoder'}",
        ],
    )


def test_a_frozen_feature_extractor(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    encoder(tmp_path, 0.05)
    run = train(config(100), tmp_path / "run")
    logged = [e["loss/align0"] for e in read_events(run) if e["event"] == "train"]
    assert logged[-1] < 0.8 * logged[0], "the hidden state comes to agree with the features"
    saved = last(run)
    assert set(saved.tensors["objective"]) == {"weight", "bias"}, "the projection alone"
    assert saved.documents["frozen"] == {"features": ModuleFeatures("frozen_encoder:Encoder").sha256}
    assert set(saved.tensors["model"]) == set(build(config(100)).model.state_dict())

    encoder(tmp_path, 0.06)
    with pytest.raises(CheckpointError, match=r"frozen networks[\s\S]*features"):
        train(config(120), tmp_path / "run")
    encoder(tmp_path, 0.05)
    train(config(120), tmp_path / "run")
    assert last(run).documents["state"]["step"] == 120
