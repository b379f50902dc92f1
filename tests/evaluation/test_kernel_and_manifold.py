"""Kernel distance, precision and recall against brute force in numpy, torchmetrics, and cases whose answer is
known."""

import numpy as np
import pytest
import torch

from lapflow.core.errors import DataError
from lapflow.evaluation import kernel_distance, precision_recall
from lapflow.evaluation.distances import squared_mmd
from tests.support import images


def two_sets(n=60, m=45, f=7, shift=0.5):
    return images(n, f), images(m, f, seed=1) * 1.3 + shift


def brute_mmd(x, y):
    """The estimate as its definition reads, pair by pair."""

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within + other - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def brute_inside(queries, features, k):
    """The share of queries in the balls about the features: distances by differences, one at a time."""
    radii = [
        sorted(np.linalg.norm(f - g) for j, g in enumerate(features) if j != i)[k - 1]
        for i, f in enumerate(features)
    ]
    return np.mean([any(np.linalg.norm(q - f) <= r for f, r in zip(features, radii)) for q in queries])


class TestKernelDistance:
    def test_the_estimate_is_its_definition(self):
        x, y = two_sets(17, 12)
        assert squared_mmd(x, y).item() == pytest.approx(brute_mmd(x.tolist(), y.tolist()), rel=1e-10)

    def test_one_subset_of_all_is_the_estimate(self):
        x, y = two_sets(20, 20)
        found = kernel_distance(x, y, subsets=3, size=20)
        assert found.mean == pytest.approx(squared_mmd(x, y).item(), rel=1e-10)
        assert found.std == pytest.approx(0, abs=1e-12)

    def test_mean_and_std_of_the_subsets(self):
        """Recomputed from the subsets themselves, in numpy."""
        from lapflow.evaluation.distances import _subset

        x, y = two_sets()
        draws = [(_subset(x, 10, 5, i, 0), _subset(y, 10, 5, i, 1)) for i in range(8)]
        assert all(len({tuple(row) for row in a.tolist()}) == 10 for a, _ in draws), "without replacement"
        want = np.array([brute_mmd(a.tolist(), b.tolist()) for a, b in draws])
        found = kernel_distance(x, y, subsets=8, size=10, seed=5)
        assert found.mean == pytest.approx(want.mean(), rel=1e-9)
        assert found.std == pytest.approx(want.std(), rel=1e-9)
        assert found == kernel_distance(x, y, subsets=8, size=10, seed=5)
        assert found != kernel_distance(x, y, subsets=8, size=10, seed=6)

    def test_it_is_unbiased_where_a_frechet_distance_is_not(self):
        """Two sets of one law: 0 within the error of the mean of independent pairs."""
        found = torch.stack(
            [squared_mmd(images(12, 3, seed=2 * i), images(12, 3, seed=2 * i + 1)) for i in range(400)]
        )
        assert abs(found.mean()) < 3 * found.std() / 20
        shifted = torch.stack(
            [squared_mmd(images(12, 3, seed=2 * i), images(12, 3, seed=2 * i + 1) + 1) for i in range(100)]
        )
        assert shifted.mean() > 10 * shifted.std() / 10

    def test_against_torchmetrics(self):
        metrics = pytest.importorskip("torchmetrics.image.kid")
        network = torch.nn.Flatten()
        network.num_features = 12
        other = metrics.KernelInceptionDistance(feature=network, subsets=1, subset_size=30)
        a, b = (
            torch.rand(30, 3, 2, 2, generator=torch.Generator().manual_seed(s)) ** (1 + s) for s in (0, 1)
        )
        other.update(a, real=True)
        other.update(b, real=False)
        # One subset of everything: nothing is left to the draw.
        found = kernel_distance(a.flatten(1), b.flatten(1), subsets=1, size=30).mean
        assert found == pytest.approx(other.compute()[0].item(), rel=1e-4), (
            "torchmetrics computes it in float32"
        )

    def test_refusals(self):
        x, y = two_sets()
        with pytest.raises(DataError, match="subset_size 50, 45 features"):
            kernel_distance(x, y, size=50)
        with pytest.raises(DataError, match="2 to 45"):
            kernel_distance(x, y, size=1)
        with pytest.raises(DataError, match="lengths"):
            kernel_distance(x, y[:, :3], size=10)


class TestPrecisionRecall:
    @pytest.mark.parametrize("k", [1, 3, 5])
    def test_against_brute_force(self, k):
        samples, real = two_sets(60, 45, 8, shift=1.5)
        found = precision_recall(samples, real, k)
        assert found.precision == brute_inside(samples.numpy(), real.numpy(), k)
        assert found.recall == brute_inside(real.numpy(), samples.numpy(), k)
        assert 0 < found.precision < 1
        assert 0 < found.recall < 1

    def test_pieces_do_not_matter(self, monkeypatch):
        samples, real = two_sets(60, 45, 3)
        want = precision_recall(samples, real)
        monkeypatch.setattr("lapflow.evaluation.neighbours.CHUNK", 7)
        assert precision_recall(samples, real) == want

    def test_known_cases(self):
        real = images(50, 4)
        same = precision_recall(real, real)
        assert (same.precision, same.recall) == (1, 1)
        far = precision_recall(real + 1000, real)
        assert (far.precision, far.recall) == (0, 0)
        # One mode of two: every sample looks real, half of what is real is never sampled.
        two = torch.cat([real, real + 1000])
        half = precision_recall(real + 1e-6, two)
        assert (half.precision, half.recall) == (1, 0.5)

    def test_refusals(self):
        samples, real = two_sets(60, 3)
        with pytest.raises(DataError, match=r"neighbours 3, 3 features[\s\S]*at least 4"):
            precision_recall(samples, real)
        with pytest.raises(DataError, match="neighbours 0"):
            precision_recall(samples, real, 0)
        with pytest.raises(DataError, match="lengths"):
            precision_recall(samples[:, :2], real, 1)
