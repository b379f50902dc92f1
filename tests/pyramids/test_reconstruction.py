"""Analyze then synthesize is the identity: every decomposition, K = 1..5, rectangular sizes, every start,
every dtype."""

import pytest
import pywt
import torch
from hypothesis import given
from hypothesis import strategies as st

from lapflow.core.errors import BackendError, ConfigError, SizeError
from lapflow.pyramids import Identity, LaplacianPyramid, WaveletPyramid
from lapflow.pyramids.wavelet import low_pass
from tests.support import DECOMPOSITIONS, images

# bf16 has 8 bits: each level's rounding is up to 2^-8 of values up to about 4 (2^(K-1) larger in a wavelet's
# LL).
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.25}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", [*DECOMPOSITIONS, "sym5", "coif2", "db20"])
@given(
    levels=st.integers(1, 5),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    batch=st.sampled_from([1, 3]),
    channels=st.integers(1, 3),
    start=st.integers(0, 4),
)
def test_synthesize_inverts_analyze(name, dtype, levels, rows, columns, batch, channels, start):
    make = DECOMPOSITIONS.get(name, lambda k: WaveletPyramid(levels=k, wavelet=name))
    decomposition, start = make(levels), min(start, levels - 1)
    unit = 2 ** (levels - 1 - start)
    x = images(batch, channels, rows * unit, columns * unit).to(dtype)
    state = decomposition.analyze(x, start)
    assert list(state) == list(range(levels - 1, start - 1, -1)), (
        "coarse to fine, from the coarsest to `start`"
    )
    back = decomposition.synthesize(state, start)
    assert back.dtype == dtype
    scale = decomposition.gain(levels - 1) / decomposition.gain(start) if dtype == torch.bfloat16 else 1
    assert (back - x).abs().max() <= TOLERANCE[dtype] * scale


@given(levels=st.integers(2, 5), name=st.sampled_from(list(DECOMPOSITIONS)))
def test_coarser_images_are_prefixes_of_the_synthesis(levels, name):
    """The image at scale s is what the bands k >= s make: analysing it again from s gives the same bands."""
    decomposition = DECOMPOSITIONS[name](levels)
    state = decomposition.analyze(images(2, 1, 2**levels, 2**levels))
    for s in range(levels):
        coarse = {k: x for k, x in state.items() if k >= s}
        again = decomposition.analyze(decomposition.synthesize(coarse, s), s)
        for k, x in coarse.items():
            torch.testing.assert_close(again[k], x, atol=1e-12, rtol=0)


def test_laplacian_by_its_definition():
    """x_k = D^k x - U D^(k+1) x, written out with index arithmetic."""
    x = images(2, 3, 8, 4)
    mean = torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(0)
    state = LaplacianPyramid(levels=2).analyze(x)
    torch.testing.assert_close(state[1], mean)
    torch.testing.assert_close(state[0], x - mean.repeat_interleave(2, -1).repeat_interleave(2, -2))


@pytest.mark.parametrize(
    "wavelet", ["haar", "db2", "db4", "db7", "sym3", "sym4", "sym9", "coif1", "coif3", "db38"]
)
@pytest.mark.parametrize("shape", [(2, 8), (16, 4), (8, 8)])
def test_wavelet_equals_pywavelets(wavelet, shape):
    x = images(2, 2, *shape)
    state = WaveletPyramid(levels=2, wavelet=wavelet).analyze(x)
    low, details = pywt.dwt2(x.numpy(), wavelet, mode="periodization")
    torch.testing.assert_close(state[1], torch.from_numpy(low), atol=1e-10, rtol=0)
    ours = state[0].unflatten(1, (2, 3)).unbind(2)
    for mine, theirs in zip(ours, details, strict=True):
        torch.testing.assert_close(mine, torch.from_numpy(theirs), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", [w for family in ("db", "sym", "coif") for w in pywt.wavelist(family)])
def test_every_orthogonal_filter_is_orthonormal_and_near_its_table(name):
    low = low_pass(name)
    gram = [low[: len(low) - 2 * m] @ low[2 * m :] - (m == 0) for m in range(len(low) // 2)]
    assert max(map(abs, gram)) < 1e-14
    assert abs(low - pywt.Wavelet(name).dec_lo).max() < 1e-10


def test_orthonormal_wavelets_keep_white_noise_white():
    for levels in (1, 2, 4):
        basis = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
        state = WaveletPyramid(levels=levels, wavelet="db3").analyze(basis)
        matrix = torch.cat([x.flatten(1) for x in state.values()], dim=1)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(64, dtype=torch.float64), atol=1e-12, rtol=0)


def test_noise_stds_of_the_laplacian_are_the_published_ones():
    stds = [band.pixel_std for band in LaplacianPyramid(levels=3).bands((4, 32, 32)).values()]
    assert stds == pytest.approx([0.25, 0.4330127, 0.8660254])
    assert [b.direction_std for b in LaplacianPyramid(levels=3).bands((4, 32, 32)).values()] == [
        0.25,
        0.5,
        1.0,
    ]


def test_sizes_that_do_not_divide_name_sizes_that_would():
    with pytest.raises(SizeError, match=r"28 or 32") as error:
        LaplacianPyramid(levels=3).bands((3, 30, 32))
    assert "levels <= 2" in str(error.value)
    with pytest.raises(SizeError):
        WaveletPyramid(levels=2).analyze(images(1, 1, 7, 8))
    with pytest.raises(SizeError):
        Identity().bands((1, 0, 4))


def test_bad_wavelets_are_refused():
    with pytest.raises(ConfigError, match="unknown wavelet"):
        WaveletPyramid(levels=2, wavelet="haaar")
    for name in ("dmey", "bior2.2"):
        with pytest.raises(ConfigError, match="not orthogonal"):
            WaveletPyramid(levels=2, wavelet=name)


def test_without_pywavelets_haar_still_works(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pywt", None)
    WaveletPyramid(levels=2)
    with pytest.raises(BackendError, match=r"lapflow\[wavelets\]"):
        WaveletPyramid(levels=2, wavelet="db2")
