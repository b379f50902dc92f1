"""The Frechet distance against scipy's matrix root, closed forms and numpy's covariance."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from lapflow.core.errors import DataError
from lapflow.evaluation import Statistics, frechet_distance
from lapflow.plugins import create
from tests.support import small_inception


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean, covariance):
    """Statistics of exactly this mean and covariance."""
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    return Statistics(101, torch.as_tensor(mean, dtype=torch.float64), covariance * 100)


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(0, 60), max_size=5), offset=st.sampled_from([0.0, 1e3, 1e6]))
def test_streaming_agrees_with_numpy(cuts, offset):
    features = normal(0, 60, 4) + offset
    edges = [1, *sorted(max(c, 1) for c in cuts), 60]
    statistics = Statistics.of(features[:1])
    for low, high in itertools.pairwise(edges):
        statistics = statistics.update(features[low:high])
    assert statistics.count == 60
    assert statistics.mean.numpy() == pytest.approx(features.numpy().mean(0), rel=1e-12)
    assert statistics.covariance.numpy() == pytest.approx(np.cov(features.numpy().T), rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("parts", [2, 5])
def test_merged_statistics_are_those_of_all(parts):
    features = normal(0, 61, 4) + 1e3
    pieces = [Statistics.of(part) for part in features.chunk(parts)]
    merged = pieces[0]
    for piece in pieces[1:]:
        merged = merged.merge(piece)
    assert merged.count == 61
    assert merged.mean.numpy() == pytest.approx(features.numpy().mean(0), rel=1e-13)
    assert merged.covariance.numpy() == pytest.approx(np.cov(features.numpy().T), rel=1e-9, abs=1e-10)
    with pytest.raises(DataError, match="lengths"):
        merged.merge(Statistics.of(normal(0, 3, 5)))


def test_against_torchmetrics_with_our_extractor(tmp_path):
    """Its FID, with our Inception extractor in the place of its own, is our distance."""
    fid = pytest.importorskip("torchmetrics.image.fid")
    extractor = create("features", small_inception(tmp_path / "inception.pt"))

    class Injected(torch.nn.Module):
        num_features = 6

        def forward(self, x):
            return extractor(x)

    other = fid.FrechetInceptionDistance(feature=Injected())
    a, b = (
        torch.rand(40 + 9 * s, 3, 16, 16, generator=torch.Generator().manual_seed(s)) ** (1 + s) * 2 - 1
        for s in (0, 1)
    )
    other.update(a, real=True)
    other.update(b, real=False)
    ours = frechet_distance(Statistics.of(extractor(a)), Statistics.of(extractor(b)))
    assert ours == pytest.approx(other.compute().item(), rel=1e-5), "torchmetrics gives its figure in float32"
    assert ours > 0.01


def test_update_returns_a_new_object():
    first = Statistics.of(normal(0, 5, 3))
    before = first.scatter.clone()
    first.update(normal(1, 5, 3))
    assert torch.equal(first.scatter, before)


@pytest.mark.parametrize("seed", range(5))
def test_against_scipy(seed):
    a = normal(seed, 80, 6) @ normal(seed + 10, 6, 6)
    b = normal(seed + 20, 50, 6) @ normal(seed + 30, 6, 6) + 1
    first, second = np.cov(a.numpy().T), np.cov(b.numpy().T)
    shift = a.numpy().mean(0) - b.numpy().mean(0)
    want = shift @ shift + np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    assert frechet_distance(Statistics.of(a), Statistics.of(b)) == pytest.approx(want, rel=1e-9)


def test_closed_forms():
    """Equal covariances: |m1 - m2|^2. Commuting ones: the sum of squared differences of their roots'
    eigenvalues."""
    root = normal(0, 5, 5)
    covariance = root @ root.T
    assert frechet_distance(
        gaussian(torch.zeros(5), covariance), gaussian(torch.full((5,), 2.0), covariance)
    ) == pytest.approx(20)
    turn, _ = torch.linalg.qr(normal(1, 3, 3))
    first, second = (
        turn @ torch.diag(torch.tensor(d, dtype=torch.float64)) @ turn.T
        for d in ([1.0, 4.0, 9.0], [4.0, 4.0, 1.0])
    )
    assert frechet_distance(gaussian([0, 0, 0], first), gaussian([0, 0, 0], second)) == pytest.approx(
        1 + 0 + 4
    )
    assert frechet_distance(gaussian([1.0], [[9.0]]), gaussian([3.0], [[4.0]])) == pytest.approx(4 + 1)


def test_singular_covariances():
    """Constant and dependent features, and fewer samples than features: finite, zero to itself, symmetric."""
    a, b = normal(0, 40, 5), normal(1, 30, 5)
    a[:, 1], b[:, 1] = 3.0, 3.0
    a[:, 2] = a[:, 0]
    first, second = Statistics.of(a), Statistics.of(b)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-6)
    few = Statistics.of(normal(2, 3, 64))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(
        gaussian([0, 0], torch.zeros(2, 2)), gaussian([3, 4], torch.zeros(2, 2))
    ) == pytest.approx(25)


def test_is_invariant_under_rotation():
    a, b = normal(0, 50, 4), 2 * normal(1, 50, 4)
    turn, _ = torch.linalg.qr(normal(2, 4, 4))
    want = frechet_distance(Statistics.of(a), Statistics.of(b))
    assert frechet_distance(Statistics.of(a @ turn), Statistics.of(b @ turn)) == pytest.approx(want, rel=1e-9)


def test_errors():
    a = Statistics.of(normal(0, 10, 3))
    with pytest.raises(DataError, match="at least two"):
        frechet_distance(a, Statistics.of(normal(0, 1, 3)))
    with pytest.raises(DataError, match="lengths"):
        frechet_distance(a, Statistics.of(normal(0, 10, 2)))
    with pytest.raises(DataError, match="not finite"):
        frechet_distance(a, a.update(torch.full((1, 3), float("nan"))))
