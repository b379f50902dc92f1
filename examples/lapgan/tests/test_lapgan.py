"""The plugin keeps lapflow's contracts, and a short run trains both sides, resumes bit for bit, samples and
is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lapgan import Adversarial, Generator, OneStep

import lapflow
from lapflow.config.building import build
from lapflow.config.loading import load_config
from lapflow.core.prediction import DenoisedPrediction
from lapflow.flows import ConditionBridge
from lapflow.flows.compose import compose
from lapflow.plugins.conformance import BackboneConformance, ObjectiveConformance, PathConformance
from lapflow.pyramids import LaplacianPyramid
from lapflow.schedules import Stages
from lapflow.training.checkpoint import latest_checkpoint, load_checkpoint
from lapflow.training.loop import train

CONFIG = Path(__file__).parents[1] / "lapgan-digits.yaml"
SMALL = [
    "model.width=8",
    "model.blocks=1",
    "objective.width=8",
    "objective.blocks=1",
    "training.batch_size=8",
    "engine.device=cpu",
]


class TestOneStep(PathConformance):
    def make(self):
        return OneStep()


class TestGenerator(BackboneConformance):
    timed = False

    def make(self):
        return Generator(self.bands, self.condition, width=8, blocks=1)


class TestAdversarial(ObjectiveConformance):
    least_at_target = False

    def make(self):
        return Adversarial(width=8, blocks=1)

    def flow(self):
        intervals, bridge = (
            Stages(windows="full", segment_sampling="batch"),
            ConditionBridge(corruption_level=0.0, max_corruption_level=0.0),
        )
        return compose(
            LaplacianPyramid(levels=2),
            intervals,
            OneStep(),
            bridge,
            prediction=DenoisedPrediction(),
            representation="merged",
        )


class TestWithoutPenalty(TestAdversarial):
    def make(self):
        return Adversarial(width=8, blocks=1, penalty=0.0)


def test_each_side_s_gradients_are_its_own_losses():
    """In the one sum, the generator's gradient is that of its loss alone, and the discriminator's that of its
    own two."""
    kit = TestAdversarial()
    objective, point = kit.built(), kit.point()
    heads = {"main": {k: x.requires_grad_() for k, x in kit.heads()["main"].items()}}
    losses = kit.losses(objective, heads, point)
    inputs, weights = list(heads["main"].values()), list(objective.module["0"].parameters())
    both = torch.autograd.grad(sum(losses.values()), [*inputs, *weights], retain_graph=True)
    mine = torch.autograd.grad(losses["generator0"], inputs, retain_graph=True)
    theirs = torch.autograd.grad(losses["discriminator0"] + losses["penalty0"], weights)
    for got, want in zip(both, [*mine, *theirs], strict=True):
        assert torch.allclose(got, want, atol=1e-7)
    assert torch.autograd.grad(
        kit.losses(objective, heads, point)["generator0"], weights, allow_unused=True
    ) == (None,) * len(weights)


def test_its_sampler_is_one_evaluation_a_scale(tmp_path):
    run = train(load_config(CONFIG, [*SMALL, "training.steps=1"]), tmp_path / "run")
    samples = lapflow.load(run).sample(3, labels=[1, 2, 3])
    assert samples.evaluations == 2
    assert samples.images.shape == (3, 1, 8, 8)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    config = load_config(
        CONFIG, [*SMALL, "training.steps=4", "training.checkpoint_every=2", "training.decay=constant"]
    )
    first, second = tmp_path / "first", tmp_path / "second"
    train(config, first)

    def interrupted(event):
        if event["event"] == "checkpoint" and event["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, second, interrupted)
    train(config, second)
    one, other = (load_checkpoint(latest_checkpoint(run / "checkpoints")).tensors for run in (first, second))
    assert set(one) == {"model", "objective", "optimizer", "ema"}
    assert all(
        torch.equal(x, other[group][name]) for group, tensors in one.items() for name, x in tensors.items()
    )
    start = build(config)
    start.build_objective()
    judge = start.objective.module.state_dict()
    assert any(not torch.equal(judge[name], x) for name, x in one["objective"].items()), (
        "the discriminators were trained"
    )
    assert set(one["ema"]) == set(one["model"]) == set(start.model.state_dict())
