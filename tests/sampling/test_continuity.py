"""A multistep solver's history is kept where the velocity is continuous, seen in the velocity itself."""

import pytest
import torch

from lapflow.core.condition import Condition
from lapflow.core.noise import BlurredNoise
from lapflow.core.prediction import NoisePrediction
from lapflow.flows import (
    AppendBridge,
    ConditionBridge,
    LinearPath,
    PyramidalPath,
    RelayPath,
    RenoiseBridge,
    TransitionBridge,
    VPPath,
)
from lapflow.flows.flow import Flow
from lapflow.models import MoTDiT, Separate
from lapflow.models.unet import UNet
from lapflow.plugins.conformance import BackboneConformance
from lapflow.pyramids import BlockDCT, LaplacianPyramid, WaveletPyramid
from lapflow.sampling.guidance import ClassifierFreeGuidance
from lapflow.sampling.sampler import Given, ModelField, continuous_scales, integrate
from lapflow.schedules import CumulativeIntervals, Stages
from lapflow.solvers import AdamsBashforth2, Euler
from tests.support import make_flow, seeded

SHAPE = (1, 8, 8)


def network(flow, mask):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MoTDiT(flow.bands(SHAPE), 0, "sdpa", depth=2, width=16, heads=2, patch=1, mask=mask).double()
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.mark.parametrize("mask", ["causal", "self", "none"])
@torch.no_grad()
def test_history_is_kept_exactly_where_the_velocity_is_continuous(mask):
    """The running scales' velocities on both sides of each entry of a three-scale run of a random network."""
    flow = make_flow(3)
    model = network(flow, mask)
    noise = flow.draw_noise(SHAPE, 2, seeded(), dtype=torch.float64, device="cpu")
    state = {}
    for index, segment in enumerate(flow.segments):
        before, state = state, flow.enter(index, state, noise)
        kept = continuous_scales(flow, index, before, state, model.mask)
        assert tuple(kept) == (() if mask == "none" or not index else flow.segments[index - 1].scales)
        fields = [
            ModelField(
                flow,
                flow.segments[i],
                SHAPE,
                model,
                Given(model, Condition()),
                ClassifierFreeGuidance(scale=1.0),
            )
            for i in ((index - 1, index) if index else ())
        ]
        if fields:
            left, right = (
                f.velocity(x, segment.sampling_start) for f, x in zip(fields, (before, state), strict=True)
            )
            same = all(torch.allclose(left[k], right[k], rtol=0, atol=1e-12) for k in left)
            assert same == bool(kept)


PYRAMIDAL, FULL = Stages(windows="pyramidal"), Stages(windows="full")
TWO, HAAR = LaplacianPyramid(levels=2), WaveletPyramid(levels=2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Flow(TWO, PYRAMIDAL, PyramidalPath(), TransitionBridge(), representation="merged"),
        lambda: Flow(
            BlockDCT(),
            FULL,
            RelayPath(),
            RenoiseBridge(),
            representation="merged",
            noise=BlurredNoise(BlockDCT()),
        ),
        lambda: Flow(
            TWO, FULL, VPPath(), ConditionBridge(), representation="merged", prediction=NoisePrediction()
        ),
        lambda: Flow(
            HAAR, CumulativeIntervals(starts=[0, 0.5]), LinearPath(), AppendBridge(), representation="merged"
        ),
        lambda: Flow(TWO, PYRAMIDAL, PyramidalPath(), AppendBridge()),
    ],
    ids=["transition", "renoise", "condition", "merged", "windows"],
)
def test_bridges_that_change_the_state_and_merged_views_void_it(make):
    flow = make()
    shape = (1, *(2 * m for m in flow.decomposition.multiple()))
    noise = flow.draw_noise(shape, 1, seeded(), dtype=torch.float64, device="cpu")
    state = flow.enter(0, {}, noise)
    assert continuous_scales(flow, 1, state, flow.enter(1, state, noise), "self") == ()


@torch.no_grad()
def test_an_edit_before_the_first_step_of_a_segment_voids_it():
    """The sampler shows an observer the state where a segment begins, too."""
    flow = make_flow(2)
    model = network(flow, "causal")
    noise = flow.draw_noise(SHAPE, 1, seeded(), dtype=torch.float64, device="cpu")

    def run(solver, edit):
        def observe(field):
            def watch(t, state):
                if edit and t == flow.segments[1].sampling_start and 0 in state:
                    state[1] = state[1].clone()

            return watch

        def field(segment, condition):
            guidance, given = ClassifierFreeGuidance(scale=1.0), Given(model, Condition())
            return ModelField(flow, segment, SHAPE, model, given, guidance, condition)

        return integrate(flow, field, noise, solver, observe=observe).state

    class Restarted(AdamsBashforth2):
        def solve(self, field, state, segment, generator=None, observe=None, history=None):
            return super().solve(field, state, segment, generator, observe)

    plain, edited, restarted = (
        run(AdamsBashforth2(steps=3), False),
        run(AdamsBashforth2(steps=3), True),
        run(Restarted(steps=3), False),
    )
    assert torch.equal(edited[1], restarted[1])
    assert not torch.equal(plain[1], restarted[1])
    assert all(torch.equal(run(Euler(steps=3), True)[k], x) for k, x in run(Euler(steps=3), False).items())


def test_networks_state_their_mask():
    bands = make_flow(2).bands(SHAPE)
    small = {"depth": 1, "width": 16, "heads": 2, "patch": 1}
    assert [MoTDiT(bands, mask=m, **small).mask for m in ("none", "self", "causal")] == [
        "none",
        "self",
        "causal",
    ]
    assert Separate(bands, **small).mask == "causal"
    assert UNet.mask == "self"


def test_a_network_that_says_the_wrong_mask_is_caught():
    class Tried(BackboneConformance):
        def make(self):
            model = MoTDiT(self.bands, self.condition, "sdpa", depth=1, width=16, heads=2, mask=self.truth)
            model.mask = self.said
            return model

    for truth, said in (("none", "causal"), ("none", "self"), ("causal", "self")):
        Tried.truth, Tried.said = truth, said
        with pytest.raises(AssertionError):
            Tried().test_a_scale_depends_on_no_more_than_its_mask_says()
