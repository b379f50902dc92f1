"""What each scale may be influenced by, through the whole network: bit for bit in value, exactly zero in
gradient."""

import itertools

import pytest
import torch

from lapflow.backends.attention import resolve
from lapflow.models import MoTDiT, Separate
from tests.models.builders import inputs, laplacian, small, states

BANDS = laplacian(3)
SEES = {"causal": lambda k, j: j >= k, "self": lambda k, j: j == k, "none": lambda k, j: True}
NETWORKS = [
    (MoTDiT, {"experts": "per-scale", "conditioning": "adaln-zero"}),
    (MoTDiT, {"experts": "shared", "conditioning": "adaln-zero"}),
    (MoTDiT, {"experts": "per-scale", "conditioning": "in-context"}),
    (MoTDiT, {"experts": "shared", "conditioning": "in-context"}),
    (Separate, {"conditioning": "adaln-zero"}),
    (Separate, {"conditioning": "in-context"}),
]


@pytest.mark.parametrize("backend", ["sdpa", "auto", "flex"])
@pytest.mark.parametrize("mask", SEES)
@pytest.mark.parametrize(("cls", "options"), NETWORKS)
def test_a_scale_changes_with_exactly_the_scales_it_sees(cls, options, mask, backend):
    model = small(BANDS, cls=cls, attention=resolve(backend), mask=mask, **options)
    state, t, labels = inputs(BANDS)
    other = states(BANDS, seed=7)
    with torch.no_grad():
        before = model(state, t, labels)["main"]
        for j in BANDS:
            after = model({**state, j: other[j]}, t, labels)["main"]
            for k in BANDS:
                assert torch.equal(before[k], after[k]) != SEES[mask](k, j), (k, j)


@pytest.mark.parametrize("backend", ["sdpa", "auto"])
@pytest.mark.parametrize("mask", SEES)
@pytest.mark.parametrize(("cls", "options"), NETWORKS)
def test_gradients_are_exactly_zero_towards_the_scales_that_are_not_seen(cls, options, mask, backend):
    model = small(BANDS, cls=cls, attention=resolve(backend), mask=mask, **options)
    state, t, labels = inputs(BANDS)
    for x in state.values():
        x.requires_grad_()
    heads = model(state, t, labels)["main"]
    for k, j in itertools.product(BANDS, BANDS):
        (gradient,) = torch.autograd.grad(
            heads[k].square().sum(), state[j], retain_graph=True, materialize_grads=True
        )
        assert bool(gradient.any()) == SEES[mask](k, j), (k, j)


@pytest.mark.parametrize("mask", ["causal", "self"])
@pytest.mark.parametrize(("cls", "options"), NETWORKS)
def test_absent_finer_scales_do_not_matter(cls, options, mask):
    model = small(BANDS, cls=cls, mask=mask, **options)
    state, t, labels = inputs(BANDS)
    whole = model(state, t, labels)["main"]
    for scales in ([2], [2, 1]):
        part = model({k: state[k] for k in scales}, t, labels)["main"]
        assert list(part) == scales
        for k in scales:
            torch.testing.assert_close(part[k], whole[k], rtol=1e-4, atol=1e-5)


def test_skipped_tokens_change_nothing():
    """Under causal a tower over all scales and one over the scales it can see are the same function."""
    skipping = small(BANDS, cls=Separate, mask="causal")
    state, t, labels = inputs(BANDS)
    for k in BANDS:
        tower = small(BANDS, experts="shared", mask="causal")
        tower.transformer.load_state_dict(skipping.towers[str(k)].state_dict(), strict=False)
        full = tower(state, t, labels)["main"][k]
        torch.testing.assert_close(skipping(state, t, labels)["main"][k], full, rtol=1e-4, atol=1e-5)
