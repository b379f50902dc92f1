"""The projection comes to agree with the frozen network, and nothing of that network is trained or saved."""

from __future__ import annotations

import pytest
import torch

import lapflow
from lapflow.config.loading import load_config
from lapflow.core.errors import ConfigError
from lapflow.training.checkpoint import latest_checkpoint, load_checkpoint
from lapflow.training.events import read_events
from lapflow.training.loop import train

SMALL = [
    "model.width=16",
    "model.heads=2",
    "model.depth=2",
    "training.batch_size=16",
    "training.warmup_steps=0",
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train(
        load_config("lapflow-digits", [*SMALL, "training.steps=2"]), tmp_path_factory.mktemp("t") / "run"
    )


def aligned(teacher, hidden):
    spec = f"objective={{name: alignment, teacher: {teacher}, width: 16, hidden: {hidden}}}"
    options = ["training.steps=60", "training.log_every=20", "training.learning_rate=3e-3"]
    return load_config("lapflow-digits", [*SMALL, *options, spec])


def test_it_aligns_and_leaves_the_teacher_alone(teacher, tmp_path):
    before = lapflow.load(teacher, device="cpu").model.state_dict()
    run = train(aligned(teacher, "block1"), tmp_path / "run")
    logged = [e["loss/align1"] for e in read_events(run) if e["event"] == "train"]
    assert logged[-1] < 0.7 * logged[0]
    saved = load_checkpoint(latest_checkpoint(run / "checkpoints"))
    assert {name.split(".")[0] for name in saved.tensors["objective"]} == {"0", "2"}, "the projection alone"
    assert set(saved.documents["frozen"]) == {"teacher"}
    after = lapflow.load(teacher, device="cpu").model.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


def test_a_hidden_state_that_the_network_lacks_is_refused_before_work(teacher, tmp_path):
    with pytest.raises(ConfigError, match="block2"):
        train(aligned(teacher, "block7"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
