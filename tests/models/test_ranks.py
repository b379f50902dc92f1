"""Transformers over series, images and films: patches, positions, masks, costs, refusals."""

import itertools
import math

import pytest
import torch

import lapflow
from lapflow.core.errors import ConfigError, SizeError
from lapflow.flows import AppendBridge, LinearPath
from lapflow.flows.flow import Flow
from lapflow.models import AutoencoderKLCodec
from lapflow.models.layers import patchify, position_embedding, unpatchify
from lapflow.plugins import create
from lapflow.pyramids import LaplacianPyramid
from lapflow.schedules import CumulativeIntervals
from lapflow.solvers import Heun
from tests.support import images, seeded


def flow_of(axes):
    return Flow(LaplacianPyramid(axes=axes), CumulativeIntervals(), LinearPath(), AppendBridge())


def network(name, axes, shape, **options):
    """A network with every weight drawn: zero-initialised layers would hide what depends on what."""
    arguments = {"depth": 2, "width": 24, "heads": 2, **options}
    bands = flow_of(axes).network_bands(shape)
    model = create("backbone", {"name": name, **arguments}, bands=bands, condition=0, attention="sdpa")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=seeded(parameter.numel()))
    return model.double()


SHAPES = [(1, (2, 16)), (2, (2, 8, 16)), (3, (2, 4, 8, 8)), ([False, True, True], (2, 4, 8, 8))]


@pytest.mark.parametrize(("patch", "grid"), [((2,), (3,)), ((2, 3), (3, 2)), ((1, 2, 2), (3, 2, 4))])
def test_patches_by_loops(patch, grid):
    """Token n is the n-th patch row by row, channels first in it; the way back has them last."""
    x = images(2, 3, *(g * p for g, p in zip(grid, patch)))
    tokens = patchify(x, patch)
    assert tokens.shape == (2, math.prod(grid), 3 * math.prod(patch))
    for n, place in enumerate(itertools.product(*map(range, grid))):
        cut = (..., *(slice(i * p, (i + 1) * p) for i, p in zip(place, patch)))
        assert torch.equal(tokens[:, n], x[cut].flatten(1))
    last = tokens.unflatten(-1, (3, -1)).transpose(-1, -2).flatten(2)
    assert torch.equal(unpatchify(last, patch, grid), x)


@pytest.mark.parametrize("grid", [(5,), (2, 5), (3, 2, 4)])
def test_positions_are_equal_shares_of_the_axes_last_axis_first(grid):
    share = 24 // len(grid)
    frequency = 10000.0 ** -(torch.arange(share // 2, dtype=torch.float64) / (share // 2))
    got = position_embedding(24, grid, tuple(2 * g for g in grid)).reshape(*grid, 24)
    for place in itertools.product(*map(range, grid)):
        centres = [2 * i + 0.5 for i in reversed(place)]  # of the finest grid, twice as fine
        want = torch.cat([f(c * frequency) for c in centres for f in (torch.sin, torch.cos)])
        torch.testing.assert_close(got[place], want.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["mot-dit", "separate"])
@pytest.mark.parametrize(("axes", "shape"), SHAPES, ids=str)
def test_causal_masks_and_costs_with_any_number_of_axes(name, axes, shape):
    """A coarse scale does not see the finer one; tokens and pixels are counted along every axis."""
    model, bands = network(name, axes, shape), flow_of(axes).network_bands(shape)
    state = {k: images(2, *b.shape, seed=k) for k, b in bands.items()}
    t = torch.tensor([0.6, 0.8], dtype=torch.float64)
    first, other = model(state, t)["main"], model({**state, 0: state[0] + 1}, t)["main"]
    torch.testing.assert_close(first[1], other[1], atol=1e-12, rtol=0)
    assert (first[0] - other[0]).abs().max() > 1e-6
    coarse = model({1: state[1]}, t)["main"]
    torch.testing.assert_close(first[1], coarse[1], atol=1e-12, rtol=0)
    if name == "mot-dit":
        tokens = {k: math.prod(b.sizes) // 2 ** len(b.sizes) for k, b in bands.items()}
        work = model.multiply_adds([1, 0])
        assert work["attention"] == 2 * 24 * 2 * (tokens[1] ** 2 + tokens[0] * (tokens[0] + tokens[1]))
        ends = 2 * 24 * 2 * sum(math.prod(b.sizes) for b in bands.values())
        assert work["linear"] == 12 * 24**2 * 2 * sum(tokens.values()) + ends


@pytest.mark.parametrize("name", ["mot-dit", "separate"])
def test_a_film_of_one_frame_is_an_image(name):
    """With patches of one frame the weights have the same shapes; with the image's positions, the outputs are
    the same."""
    image = network(name, 2, (2, 8, 8))
    film = network(name, [False, True, True], (2, 1, 8, 8), patch=[[1, 2, 2], [1, 2, 2]])
    film.load_state_dict(image.state_dict())
    for mine, theirs in zip(film.buffers(), image.buffers(), strict=True):
        mine.copy_(theirs)
    state = {1: images(2, 2, 4, 4), 0: images(2, 2, 8, 8)}
    t = torch.tensor([0.6, 0.8], dtype=torch.float64)
    want = image(state, t)["main"]
    for k, x in film({k: x.unsqueeze(2) for k, x in state.items()}, t)["main"].items():
        torch.testing.assert_close(x.squeeze(2), want[k], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("axes", "shape"), SHAPES, ids=str)
def test_samples_of_any_number_of_axes_train_and_are_sampled(axes, shape):
    flow, model = flow_of(axes), network("mot-dit", axes, shape).float()
    points = flow.training_points(images(4, *shape, dtype=torch.float32), seeded())
    for point in points:
        got = model(point.state, point.t)["main"]
        assert {k: x.shape for k, x in got.items()} == {k: x.shape for k, x in point.target.items()}
    drawn = lapflow.sample(flow, model, (3, *shape), solver=Heun(steps=2), generator=seeded())
    assert drawn.shape == (3, *shape)
    assert bool(torch.isfinite(drawn).all())


def test_what_does_not_fit_is_refused_by_axis():
    with pytest.raises(SizeError, match="scale 1 of length 6 cannot"):
        network("mot-dit", 1, (1, 12), patch=8)
    with pytest.raises(SizeError, match="of time") as error:
        network("mot-dit", 3, (1, 4, 8, 8), patch=[[4, 2, 2], [2, 2, 2]])
    assert "a time that is a multiple of 8, for instance 8" in str(error.value)
    with pytest.raises(ConfigError, match="one size per axis"):
        network("mot-dit", 3, (1, 4, 8, 8), patch=[[2, 2], [2, 2]])
    with pytest.raises(ConfigError, match="multiple of 6") as error:
        network("mot-dit", 3, (1, 4, 8, 8), width=32)
    assert "30 or 36" in str(error.value)


@pytest.mark.parametrize(("axes", "shape"), [(1, (1, 16)), (3, (1, 4, 8, 8))])
def test_what_is_made_for_images_refuses_the_rest_by_name(axes, shape):
    with pytest.raises(SizeError, match="backbone unet is for images alone"):
        create(
            "backbone",
            {"name": "unet", "channels": [8, 8], "groups": 4, "head_width": 4, "attention_levels": [1]},
            bands=flow_of(axes).network_bands(shape),
            condition=0,
        )
    with pytest.raises(SizeError, match="autoencoder is for images alone"):
        AutoencoderKLCodec(path="none").latent_shape(shape)
