"""Objectives with weights of their own: trained, saved and gone on with beside the network, and not in its
way."""

import json

import pytest
import torch
from torch import nn

from lapflow.config.building import build
from lapflow.config.loading import load_config
from lapflow.core.errors import CheckpointError
from lapflow.core.objective import frozen
from lapflow.plugins.conformance import ObjectiveConformance
from lapflow.plugins.registry import unregister
from lapflow.sampling.pipeline import Pipeline
from lapflow.training.checkpoint import latest_checkpoint
from lapflow.training.events import read_events
from lapflow.training.loop import train
from tests.training import critic
from tests.training.runs import last, same

TINY = [
    "model.width=32",
    "model.heads=2",
    "model.depth=1",
    "training.batch_size=8",
    "training.log_every=2",
    "training.warmup_steps=2",
]


@pytest.fixture(autouse=True)
def known():
    critic.make_known()
    yield
    unregister("objective", "test-critic")


def config(*overrides, objective="test-critic"):
    settings = [
        "training.steps=4",
        "training.checkpoint_every=2",
        "training.keep_checkpoints=2",
        f"objective={objective}",
    ]
    return load_config("lapflow-digits", [*TINY, *settings, *overrides])


class TestCritic(ObjectiveConformance):
    least_at_target = False

    def make(self):
        return critic.Critic()


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("training.accumulation=2",),
        ("training.activation_checkpointing=true", "flow.intervals.segment_sampling=batch"),
        ("training.ema_decay=null", "sampling.weights=raw"),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, options):
    class StoppedError(Exception):
        pass

    def stop(event):
        if event["event"] == "checkpoint" and event["step"] == 2:
            raise StoppedError

    train(config(*options), tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(config(*options), tmp_path / "parts", stop)
    train(config(*options), tmp_path / "parts")
    same(last(tmp_path / "whole"), last(tmp_path / "parts"))


def test_a_checkpoint_holds_both_and_the_network_under_its_own_names(tmp_path):
    run, plain = train(config(), tmp_path / "run"), train(config(objective="mse"), tmp_path / "plain")
    found, usual = last(run).tensors, last(plain).tensors
    assert set(found) - set(usual) == {"objective"}
    for group in ("model", "ema"):
        assert {n: x.shape for n, x in found[group].items()} == {n: x.shape for n, x in usual[group].items()}
    parts = build(config())
    parts.build_objective()
    first = parts.objective.module.state_dict()
    assert set(found["objective"]) == set(first)
    assert all(not torch.equal(x, first[name]) for name, x in found["objective"].items()), (
        "every critic was trained"
    )
    start = next(e for e in read_events(run) if e["event"] == "start")
    assert start["objective_parameters"] == sum(x.numel() for x in first.values())
    assert start["parameters"] == sum(p.numel() for p in parts.model.parameters())
    assert Pipeline.load(run).sample(2).images.shape == (2, 1, 8, 8)


def test_first_weights_are_the_seed_s_alone():
    """The network's do not depend on the objective's, nor these on the global generator."""
    made = []
    for _ in range(2):
        parts = build(config())
        torch.rand(3)
        parts.build_objective()
        made.append(parts)
    plain = build(config(objective="mse")).model.state_dict()
    for name, x in made[0].model.state_dict().items():
        assert torch.equal(x, plain[name])
    one, other = (parts.objective.module.state_dict() for parts in made)
    assert all(torch.equal(x, other[name]) for name, x in one.items())


def test_a_checkpoint_without_the_objective_s_weights_is_refused(tmp_path):
    """One of a run of the same settings that had none: the plugin has changed since."""
    train(config(), tmp_path / "run")
    manifest = latest_checkpoint(tmp_path / "run" / "checkpoints") / "manifest.json"
    listed = json.loads(manifest.read_text())
    del listed["sha256"]["objective.safetensors"]
    manifest.write_text(json.dumps(listed))
    with pytest.raises(CheckpointError, match="holds no objective"):
        train(config(), tmp_path / "run")


def test_held_weights_pass_gradients_on_and_get_none():
    net, x = nn.Linear(3, 1), torch.randn(2, 3, requires_grad=True)
    net.bias.requires_grad_(False)
    with frozen(net):
        net(x).sum().backward()
    assert torch.equal(x.grad, net.weight.detach().expand(2, 3))
    assert net.weight.grad is None
    assert net.weight.requires_grad
    assert not net.bias.requires_grad, "what was frozen before stays so"
    with pytest.raises(RuntimeError), frozen(net):
        raise RuntimeError
    assert net.weight.requires_grad


class Fitted:
    """Counts what `fit` was given."""

    def __init__(self):
        self.seen = []

    def fit(self, examples):
        self.seen.append({n: examples(n) for n in (5, 10**6)})


@pytest.mark.parametrize("recipe", ["lapflow-digits", "pyramidal-flow-digits"])
def test_a_network_is_fitted_once_by_what_it_will_see(recipe, tmp_path, monkeypatch):
    """The same first samples whatever is asked for; a run that goes on does not fit again."""
    parts = build(load_config(recipe, TINY))
    fitted = Fitted()
    monkeypatch.setattr(type(parts.model), "fit", lambda model, examples: fitted.fit(examples))
    for _ in range(2):
        train(load_config(recipe, [*TINY, "training.steps=1"]), tmp_path / "run")
    (seen,) = fitted.seen
    few, all_of_them = seen.values()
    views = parts.flow.network_bands(parts.shape)
    size = parts.dataset.size("train")
    assert list(few) == list(all_of_them) == list(views)
    for k, band in views.items():
        assert few[k].shape == (5, *band.shape)
        assert all_of_them[k].shape == (size, *band.shape)
        assert torch.equal(all_of_them[k][:5], few[k])
    finest = parts.flow.finish(few if parts.flow.representation == "bands" else {0: few[0]})
    images = {parts.dataset.read("train", i).value.numpy().tobytes() for i in range(size)}
    assert all((x * 8).round().div(8).numpy().tobytes() in images for x in finest), "they are training images"
