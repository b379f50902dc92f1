"""Series, images and films: the pyramids against their definitions written out, and the constants of n halved
axes."""

import itertools

import numpy as np
import pytest
import pywt
import torch

from lapflow.core.errors import ConfigError, SizeError
from lapflow.pyramids import BlockDCT, Identity, LaplacianPyramid, WaveletPyramid
from lapflow.pyramids.laplacian import downsample, upsample
from tests.support import images

HALVED = [(True,), (True, True), (True, True, True), (False, True, True), (True, False, False)]
"""Which axes a level halves."""


def sizes_of(halved):
    return [(6, 4, 8)[axis] for axis in range(len(halved))]


@pytest.mark.parametrize("halved", HALVED, ids=str)
def test_laplacian_by_loops_over_its_blocks(halved):
    """Every pixel of the coarse band is the mean of its block, and what is left of a pixel the fine one."""
    x = images(2, 3, *sizes_of(halved))
    state = LaplacianPyramid(levels=2, axes=list(halved)).analyze(x)
    block = [range(1 + half) for half in halved]
    coarse = torch.zeros(2, 3, *(size // len(b) for size, b in zip(sizes_of(halved), block)), dtype=x.dtype)
    fine = x.clone()
    for place in itertools.product(*map(range, coarse.shape[2:])):
        inside = [
            (..., *(p * len(b) + o for p, b, o in zip(place, block, offset)))
            for offset in itertools.product(*block)
        ]
        coarse[(..., *place)] = sum(x[pixel] for pixel in inside) / len(inside)
        for pixel in inside:
            fine[pixel] = x[pixel] - coarse[(..., *place)]
    torch.testing.assert_close(state[1], coarse, atol=1e-14, rtol=0)
    torch.testing.assert_close(state[0], fine, atol=1e-14, rtol=0)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
@pytest.mark.parametrize("halved", HALVED, ids=str)
def test_wavelet_equals_pywavelets(halved, wavelet):
    """Detail d holds the sub-band whose a-th halved axis is high-passed where bit a of d + 1 is set."""
    x = images(2, 2, *sizes_of(halved))
    state = WaveletPyramid(levels=2, wavelet=wavelet, axes=list(halved)).analyze(x)
    axes = [2 + axis for axis, half in enumerate(halved) if half]
    parts = pywt.dwtn(x.numpy(), wavelet, mode="periodization", axes=axes)
    torch.testing.assert_close(state[1], torch.from_numpy(parts["a" * len(axes)]), atol=1e-10, rtol=0)
    details = state[0].unflatten(1, (2, -1)).unbind(2)
    assert len(details) == 2 ** len(axes) - 1
    for d, mine in enumerate(details):
        name = "".join("d" if (d + 1) >> a & 1 else "a" for a in range(len(axes)))
        torch.testing.assert_close(mine, torch.from_numpy(parts[name]), atol=1e-10, rtol=0)


@pytest.mark.parametrize("halved", HALVED, ids=str)
def test_constants_of_n_halved_axes(halved):
    """Of white noise, D has std 2^(-n/2) and H = I - U D variance 1 - 2^-n per pixel, with correlation
    -1/(2^n - 1) inside a block and a share of 2^-n dead directions."""
    n, sizes = sum(halved), [1 + half for half in halved]
    basis = torch.eye(2**n, dtype=torch.float64).reshape(-1, 1, *sizes)
    mean = downsample(basis, sizes)
    residual = (basis - upsample(mean, sizes)).flatten(1)
    assert float(mean.square().sum()) == pytest.approx(2.0**-n)
    covariance = residual.T @ residual
    eigenvalues = torch.linalg.eigvalsh(covariance)
    assert eigenvalues.numpy() == pytest.approx(np.array([0.0] + [1.0] * (2**n - 1)), abs=1e-12)
    assert covariance.diagonal().numpy() == pytest.approx(np.full(2**n, 1 - 2.0**-n))
    off = covariance[~torch.eye(2**n, dtype=torch.bool)] / covariance[0, 0]
    assert off.numpy() == pytest.approx(np.full(len(off), -1 / (2**n - 1)))


def test_levels_may_halve_different_axes():
    """Coarse to fine: the coarsest step halves all axes of a film, the finest its height and width."""
    film = LaplacianPyramid(levels=3, axes=[[True, True, True], [False, True, True]])
    assert film.axes == 3
    assert (film.factors(0), film.factors(1)) == ((1, 2, 2), (2, 2, 2))
    assert (film.multiple(), film.multiple(1)) == ((2, 4, 4), (2, 2, 2))
    assert film.contractions == pytest.approx((2**1.5, 2.0))
    bands = film.bands((1, 2, 4, 8))
    assert {k: b.sizes for k, b in bands.items()} == {2: (1, 1, 2), 1: (2, 2, 4), 0: (2, 4, 8)}
    assert [b.direction_std for b in bands.values()] == pytest.approx([2**-2.5, 0.5, 1.0])
    waves = WaveletPyramid(levels=3, axes=[[True, True, True], [False, True, True]])
    assert [b.channels for b in waves.bands((1, 2, 4, 8)).values()] == [1, 7, 3]
    assert [waves.gain(k) for k in range(3)] == pytest.approx([1.0, 2.0, 2**2.5])


@pytest.mark.parametrize(
    ("axes", "sizes", "message"),
    [
        (1, (30,), "length 30 .* 3 scales"),
        (3, (4, 4, 6), "width 6"),
        (3, (3, 4, 4), "time 3"),
        ([False, True, True], (3, 6, 4), "height 6"),
    ],
)
def test_sizes_are_refused_per_axis(axes, sizes, message):
    pyramid = LaplacianPyramid(levels=3, axes=axes)
    with pytest.raises(SizeError, match=message) as error:
        pyramid.bands((1, *sizes))
    assert "multiple of 4, for instance" in str(error.value)
    assert "levels <= " in str(error.value)
    with pytest.raises(SizeError, match=message):
        WaveletPyramid(levels=3, axes=axes).analyze(images(1, 1, *sizes))


def test_another_number_of_axes_is_refused_with_the_setting_that_takes_it():
    for pyramid in (Identity(), LaplacianPyramid(), WaveletPyramid()):
        with pytest.raises(SizeError, match="a sample with 1 axis, and a decomposition for 2 axes") as error:
            pyramid.bands((1, 8))
        assert "flow.decomposition.axes=1" in str(error.value)
        with pytest.raises(SizeError, match="height, width"):
            pyramid.analyze(images(1, 1, 4, 8, 8))
    with pytest.raises(SizeError, match="block DCT is for images alone"):
        BlockDCT().bands((1, 8))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (0, "1 to 3 axes"),
        (4, "1 to 3 axes"),
        ([True] * 4, "1 to 3 axes"),
        ([False, False], "do not fit"),
        ([[True, True]], "do not fit"),
        ([[True, True], [True]], "do not fit"),
        ([], "1 to 3 axes"),
        ([1, 1], "axes"),
    ],
)
def test_bad_axes_are_refused(axes, message):
    with pytest.raises(ConfigError, match=message):
        LaplacianPyramid(levels=3, axes=axes)
