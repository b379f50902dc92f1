"""The plugin keeps lapflow's contracts, its quantiser is one, and a short run fits, trains, resumes and
samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from varlap import CrossEntropy, Drawn, DrawTokens, NextScale, Quantiser, Successive
from varlap.quantiser import blocks, means, nearest

import lapflow
from lapflow.config.building import build
from lapflow.config.loading import load_config
from lapflow.core.errors import SizeError
from lapflow.data import Digits
from lapflow.plugins.conformance import (
    BackboneConformance,
    ObjectiveConformance,
    PathConformance,
    PredictionConformance,
    SolverConformance,
)
from lapflow.plugins.kits.sampling import KnownField
from lapflow.pyramids import LaplacianPyramid, WaveletPyramid
from lapflow.training.checkpoint import latest_checkpoint, load_checkpoint
from lapflow.training.loop import train
from lapflow.util.random import keyed_generator

CONFIG = Path(__file__).parents[1] / "varlap-digits.yaml"
SMALL = [
    "model.width=16",
    "model.depth=1",
    "model.attention_heads=2",
    "model.codes=8",
    "training.batch_size=8",
    "engine.device=cpu",
]


class TestSuccessive(PathConformance):
    def make(self):
        return Successive()


class TestDrawn(PredictionConformance):
    def make(self):
        return Drawn()


class TestNextScale(BackboneConformance):
    timed = False
    own_scale = False

    def make(self):
        return NextScale(self.bands, self.condition, "sdpa", codes=16, width=16, depth=2, attention_heads=2)


class TestCrossEntropy(ObjectiveConformance):
    least_at_target = False
    heads_trained = ("logits",)

    def make(self):
        return CrossEntropy()

    def heads(self, rows=slice(None), segment=-1):
        target = self.point(segment=segment).target
        model = NextScale(self.flow().bands(self.image), codes=8, width=8, depth=1, attention_heads=1)
        found = {
            name: {k: x.detach()[rows] for k, x in head.items()}
            for name, head in model(target, torch.zeros(6)).items()
        }
        generator = torch.Generator().manual_seed(1)
        codes = {
            k: torch.randn(x.shape[1:], generator=generator).expand(x.shape)
            for k, x in found["codes"].items()
        }
        logits = {
            k: torch.randn(6, *x.shape[1:], generator=generator)[rows] for k, x in found["logits"].items()
        }
        return {"main": found["main"], "logits": logits, "codes": codes}


class TokenField(KnownField):
    """Four codes, one pixel a token."""

    bad = 0.0

    def predict(self, state, t):
        self.times.append(t)
        codes = torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
        logits = {k: torch.zeros(len(x), 4, *x.shape[2:]) + self.bad for k, x in state.items()}
        return {
            "main": state,
            "logits": logits,
            "codes": {k: codes.expand(len(x), -1, -1) for k, x in state.items()},
        }


class TestDrawTokens(SolverConformance):
    deterministic = False

    def make(self):
        return DrawTokens()

    def field(self):
        return TokenField(self.segment)

    def broken_field(self):
        field = TokenField(self.segment)
        field.bad = float("nan")
        return field


def test_tokens_are_drawn_with_their_probabilities():
    logits = torch.tensor([0.0, 1.0, -1.0, -torch.inf]).view(1, 4, 1, 1).expand(20000, 4, 1, 1)
    for solver, want in (
        (DrawTokens(), logits[0].softmax(0)),
        (DrawTokens(temperature=0.5), (2 * logits[0]).softmax(0)),
        (DrawTokens(top=2), torch.tensor([0.0, 1.0, -torch.inf, -torch.inf]).softmax(0)),
    ):
        tokens = solver.draw(logits, keyed_generator("draw"))
        share = torch.bincount(tokens.flatten(), minlength=4) / len(logits)
        assert torch.allclose(share, want.flatten(), atol=0.015)


def test_a_scale_is_predicted_from_the_coarser_ones_alone():
    kit = TestNextScale()
    model, scales = kit.network(), tuple(kit.bands)
    state, t = kit.state(scales), torch.zeros(kit.batch, dtype=torch.float64)
    first = model(state, t)
    changed = model({**state, 0: state[0].flip(-1)}, t)
    assert all(torch.equal(first[name][k], changed[name][k]) for name in first for k in scales)


def test_k_means_finds_clusters_and_its_codes_stay_in_the_band():
    centres = torch.tensor([[0.0, 0.0], [5.0, 5.0], [-5.0, 5.0]])
    points = (centres[:, None] + 0.1 * torch.randn(3, 50, 2, generator=keyed_generator("points"))).flatten(
        0, 1
    )
    found = means(points, 3, "test")
    assert torch.cdist(centres, found).min(1).values.max() < 0.1
    assert torch.equal(means(points, 3, "test"), found)
    bands = LaplacianPyramid(levels=2).analyze(torch.randn(40, 1, 8, 8, generator=keyed_generator("x")))
    quantiser = Quantiser(LaplacianPyramid(levels=2).bands((1, 8, 8)), 8, 2)
    quantiser.fit(bands)
    assert quantiser.codes(0).mean(1).abs().max() < 1e-6
    again = quantiser(bands[0], 0)
    assert torch.allclose(quantiser(again, 0), again)
    assert torch.equal(
        nearest(blocks(again, 2), quantiser.codes(0)), nearest(blocks(bands[0], 2), quantiser.codes(0))
    )


def test_the_quantised_digits_are_near_the_digits():
    pyramid, digits = LaplacianPyramid(levels=3), Digits()
    x = torch.stack([digits.read("train", i).value for i in range(400)])
    quantiser = Quantiser(pyramid.bands((1, 8, 8)), 64, 2)
    quantiser.fit(pyramid.analyze(x))
    made = pyramid.synthesize({k: quantiser(band, k) for k, band in pyramid.analyze(x).items()})
    assert (made - x).square().mean() < 0.1 * x.var()


def test_bands_of_another_pyramid_are_refused():
    with pytest.raises(SizeError, match="twice as large"):
        NextScale(WaveletPyramid(levels=2).bands((1, 8, 8)))


def test_a_run_fits_trains_goes_on_and_samples(tmp_path):
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
    assert all(
        torch.equal(x, other[group][name]) for group, tensors in one.items() for name, x in tensors.items()
    )
    pipeline, parts = lapflow.load(first), build(config)
    parts.fit()
    codes = {k: parts.model.quantiser.codes(k) for k in range(3)}
    assert all(torch.equal(pipeline.model.quantiser.codes(k), codes[k]) for k in codes), (
        "the average holds the fitted codes"
    )
    samples = pipeline.sample(3, labels=[1, 2, 3], guidance=1.5)
    assert samples.evaluations == 3
    bands = parts.flow.decomposition.analyze(samples.images)
    assert all((parts.model.quantiser(bands[k], k) - bands[k]).abs().max() < 1e-5 for k in bands), (
        "samples are made of codes"
    )
