"""The noise of a batch as one tensor."""

import pytest
import torch

from tests.support import make_flow, seeded

pytest.importorskip("diffusers")

from lapflow.config.building import build_flow
from lapflow.config.loading import load_config
from lapflow.core.errors import ConfigError
from lapflow.hub.arguments import join_noise, noise_shape, split_noise

SHAPES = {
    "lapflow-digits": (1, 8, 8),
    "pyramidal-flow-digits": (1, 8, 8),
    "relay-digits": (2 * 2 * 64,),  # two pyramids of two white images
    "cascaded-digits": (3 * 64,),  # of two segments, and of what corrupts the condition
}


@pytest.mark.parametrize("recipe", SHAPES)
def test_it_is_what_the_flow_draws(recipe):
    flow = build_flow(load_config(recipe), check=False)
    white = flow.draw_white((1, 8, 8), 3, seeded(), dtype=torch.float32, device="cpu")
    latents = join_noise(white)
    assert noise_shape(flow, (1, 8, 8)) == SHAPES[recipe]
    assert latents.shape == (3, *SHAPES[recipe])
    drawn = flow.draw_noise((1, 8, 8), 3, seeded(), dtype=torch.float32, device="cpu")
    again = flow.noise_from(split_noise(flow, (1, 8, 8), latents, 3))
    assert len(again) == len(drawn)
    assert all(
        list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in b)
        for a, b in zip(again, drawn, strict=True)
    )


def test_scales_with_noise_of_their_own_have_draws_of_several_sizes():
    flow = make_flow(noise="independent")
    assert noise_shape(flow, (1, 8, 8)) == (64 + 16,)
    white = flow.draw_white((1, 8, 8), 2, seeded(), dtype=torch.float32, device="cpu")
    (again,) = split_noise(flow, (1, 8, 8), join_noise(white), 2)
    assert all(torch.equal(again[k], white[0][k]) for k in again)


def test_another_shape_is_refused():
    with pytest.raises(ConfigError, match=r"\(2, 1, 8, 8\)"):
        split_noise(make_flow(), (1, 8, 8), torch.zeros(2, 64), 2)
