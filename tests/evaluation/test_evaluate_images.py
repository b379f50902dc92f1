"""The measures on the real digits: real images score as real, copies are found, noise is not."""

import sys

import pytest
import torch

from lapflow.core.errors import BackendError, DataError
from lapflow.data import Digits, load_split
from lapflow.evaluation import copies, evaluate_images, svm_agreement
from lapflow.evaluation.neighbours import nearest_distances


@pytest.fixture(scope="module")
def train():
    return load_split(Digits(), "train")


@pytest.fixture(scope="module")
def test():
    return load_split(Digits(), "test")


def noisy(images, levels):
    return images + torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * levels / 8


def test_nearest_distances_are_exact():
    a = torch.randint(0, 256, (30, 100), generator=torch.Generator().manual_seed(0)).double()
    b = torch.randint(0, 256, (2000, 100), generator=torch.Generator().manual_seed(1)).double()
    assert torch.allclose(
        nearest_distances(a, b),
        torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").min(1).values,
        rtol=1e-12,
    )
    assert (nearest_distances(a, torch.cat([b, a])) == 0).all()
    assert (nearest_distances(a, a, different=True) > 0).all()


def test_no_held_out_image_is_a_copy(train, test):
    report = copies(test[0], train[0], test[0], 16)
    assert report.copies == 0
    assert report.closest == report.held_out_closest > report.threshold
    assert report.median == report.held_out_median == pytest.approx(18, abs=0.5)


def test_copies_are_found(train, test):
    samples = torch.cat(
        [
            train[0][:20],
            train[0][:20] + 0.04,
            noisy(train[0][:30], 0.5),
            test[0][:10],
            noisy(test[0][:10], 0.5),
        ]
    )
    report = copies(samples, train[0], test[0], 16)
    assert (report.samples, report.exact, report.near) == (90, 40, 30)
    assert report.copies == 70
    assert report.closest == 0


def test_equal_real_images_do_not_void_the_rule(train, test):
    doubled = torch.cat([train[0], train[0][:5]])
    assert copies(noisy(train[0][:30], 0.5), doubled, test[0], 16).near == 30


def test_copies_without_held_out(train):
    report = copies(train[0][:3], train[0], torch.empty(0, 1, 8, 8), 16)
    assert (report.exact, report.held_out_median) == (3, None)
    with pytest.raises(DataError, match="copies"):
        copies(train[0][:0], train[0], train[0][:0], 16)


def test_agreement(train, test):
    assert svm_agreement(*train, *test) > 0.95
    assert svm_agreement(*train, test[0], (test[1] + 1) % 10) < 0.03
    with pytest.raises(DataError, match="one image"):
        svm_agreement(*train, test[0][:0], test[1][:0])


def test_missing_scikit_learn_names_the_extra(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(BackendError, match=r"lapflow\[demo\]"):
        svm_agreement(*train, *train)


def test_real_images_score_as_real(train, test):
    """Training images in the samples' place have ratio 1; held-out images themselves distance 0; noise is
    seen."""
    metrics = evaluate_images(*train, Digits(), classifier=svm_agreement)
    assert metrics["frechet_ratio"] == pytest.approx(1)
    assert metrics["counts"] == {"samples": 1438, "train": 1438, "test": 359, "unreadable": 0}
    metrics = evaluate_images(*test, Digits(), classifier=svm_agreement)
    assert metrics["frechet"] == pytest.approx(0, abs=1e-6)
    assert metrics["agreement"] == metrics["agreement_real"] > 0.95
    assert metrics["copies"]["copies"] == 0
    assert evaluate_images(noisy(train[0], 1.5), None, Digits())["frechet_ratio"] > 1.2


def test_what_cannot_be_measured_is_absent(train):
    metrics = evaluate_images(train[0][:50], train[1][:50], Digits(held_out=0.0))
    assert "agreement" not in metrics
    assert "frechet_real" not in metrics
    assert "frechet_ratio" not in metrics
    assert "frechet" not in metrics
    assert metrics["frechet_to_training"] > 0
