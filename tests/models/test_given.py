"""What is given beside the noise: tokens in three ways, numbers; causality, once per sample, and by
itself."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lapflow.core.condition import CAPTION, CLASS, ClassesSpec, Condition, Tokens, TokensSpec, VectorSpec
from lapflow.core.errors import ConfigError
from lapflow.flows import AppendBridge, LinearPath
from lapflow.flows.compose import compose
from lapflow.models import MoTDiT, Separate
from lapflow.models.given import TokenGroup
from lapflow.plugins.kits.network import examples
from lapflow.pyramids import LaplacianPyramid
from lapflow.sampling import sample
from lapflow.schedules import CumulativeIntervals
from lapflow.solvers import Euler
from tests.models.builders import inputs, laplacian, small, states

BANDS = laplacian(3)
PARTS = {CLASS: ClassesSpec(5), "vector": VectorSpec(2), CAPTION: TokensSpec(6, vocabulary=7)}
WAYS = ["group", "cross-attention", "in-context"]


def network(**options):
    return small(BANDS, PARTS, **options)


@pytest.mark.parametrize("cls", [MoTDiT, Separate])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mask", ["causal", "self", "none"])
def test_every_scale_reads_what_is_given_and_the_mask_holds(mask, way, cls):
    model, given = network(cls=cls, mask=mask, given_tokens=way), examples(PARTS, 3)
    state, t, _ = inputs(BANDS)
    with torch.no_grad():
        before = model(state, t, given)["main"]
        ids = given.parts[CAPTION].value.clone()
        ids[:, -1] = (ids[:, -1] + 1) % 7
        after = model(state, t, given.beside(CAPTION, Tokens.of(ids)))["main"]
        assert not any(torch.equal(before[k], after[k]) for k in BANDS)
        finer = model({**state, 0: states(BANDS, seed=7)[0]}, t, given)["main"]
        assert torch.equal(before[2], finer[2]) == (mask != "none")


@pytest.mark.parametrize("mask", ["causal", "self", "none"])
def test_a_group_reads_no_scale_and_no_time(mask):
    """Its keys and values, the only thing that comes of it, are a function of the tokens alone."""
    model, given = network(mask=mask), examples(PARTS, 3)
    made = []
    model.transformer.groups[CAPTION].register_forward_hook(lambda _, __, found: made.append(found))
    for seed, time in ((1, 0.2), (7, 0.9)):
        model(states(BANDS, seed=seed), torch.full((3,), time), given)
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


@pytest.mark.parametrize("experts", ["per-scale", "shared"])
@pytest.mark.parametrize("mask", ["causal", "self", "none"])
def test_prepared_is_the_same_as_recomputed(mask, experts):
    model, given = network(mask=mask, experts=experts), examples(PARTS, 3)
    state, t, _ = inputs(BANDS)
    joined = given.join(given.null())
    twice, times = {k: torch.cat([x, x]) for k, x in state.items()}, torch.cat([t, t])
    for condition, x, time in ((given, state, t), (joined, twice, times)):
        want = model(x, time, condition)["main"]
        got = model(x, time, model.prepare(condition))["main"]
        assert all(torch.equal(got[k], want[k]) for k in BANDS)


class Counting(nn.Module):
    """Counts the calls of a network's token groups."""

    def __init__(self, model):
        super().__init__()
        self.calls = 0
        for module in model.modules():
            if isinstance(module, TokenGroup):
                module.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1


def test_a_sampling_computes_a_group_once_for_all_steps_and_segments():
    """Once with guidance (the pair), and the images are those of a network that computes it in each
    evaluation."""
    flow = compose(
        LaplacianPyramid(levels=3), CumulativeIntervals(starts=[0.0, 0.3, 0.6]), LinearPath(), AppendBridge()
    )
    model = small(flow.bands((2, 8, 8)), PARTS)
    given, calls = examples(PARTS, 3), Counting(model)

    def draw():
        generator = torch.Generator().manual_seed(3)
        return sample(
            flow,
            model,
            (3, 2, 8, 8),
            condition=given,
            solver=Euler(steps=3),
            guidance=1.5,
            generator=generator,
        )

    kept, once = draw(), calls.calls
    model.prepare = lambda condition: condition
    again = draw()
    assert (once, calls.calls - once) == (1, 9)
    assert torch.equal(kept, again)


def test_multiply_adds_of_what_is_given():
    """Against the products that the network makes, counted by torch; the embeddings of t, class and numbers
    apart."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    tokens = {CAPTION: TokensSpec(6, vocabulary=7)}
    for way in WAYS:
        for mask in ("causal", "none"):
            model = small(BANDS, tokens, mask=mask, given_tokens=way)
            state, t, _ = inputs(BANDS, batch=1)
            given = examples(tokens, 1)
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                model(state, t, given)
            embeddings = 256 * 16 + 16 * 16
            want = sum(model.multiply_adds(BANDS).values()) + model.transformer.given_multiply_adds()
            assert counter.get_total_flops() // 2 == want + embeddings, (way, mask)


def test_a_dropped_sample_is_one_to_which_nothing_is_given():
    model, given = network(), examples(PARTS, 3)
    state, t, _ = inputs(BANDS)
    dropped = model(state, t, given.drop(torch.tensor([False, True, False])))["main"]
    whole, nothing = model(state, t, given)["main"], model(state, t)["main"]
    for k in BANDS:
        torch.testing.assert_close(dropped[k][1], nothing[k][1])
        torch.testing.assert_close(dropped[k][0], whole[k][0])


def test_embeddings_of_another_encoder():
    spec = {CAPTION: TokensSpec(4, width=12)}
    model, given = small(BANDS, spec), examples(spec, 3)
    given = Condition({n: replace(p, value=p.value.float()) for n, p in given.parts.items()})
    state, t, _ = inputs(BANDS)
    want = model(state, t, given)["main"]
    assert all(torch.equal(x, model(state, t, model.prepare(given))["main"][k]) for k, x in want.items())


@pytest.mark.parametrize("bad", ["ids", "length", "rows", "name"])
def test_what_does_not_fit_is_refused(bad):
    flow = compose(
        LaplacianPyramid(levels=1), CumulativeIntervals(starts=[0.0]), LinearPath(), AppendBridge()
    )
    model = small(flow.bands((1, 4, 4)), {CAPTION: TokensSpec(3, vocabulary=4)})
    ids = torch.zeros(2, 3, dtype=torch.int64)
    given = {
        "ids": Condition({CAPTION: Tokens.of(ids + 4)}),
        "length": Condition({CAPTION: Tokens.of(ids[:, :2])}),
        "rows": Condition({CAPTION: Tokens.of(ids[:1])}),
        "name": Condition.of(torch.zeros(2, dtype=torch.int64)),
    }[bad]
    with pytest.raises(ConfigError, match="class" if bad == "name" else CAPTION):
        sample(flow, model, (2, 1, 4, 4), condition=given, solver=Euler(steps=1))
