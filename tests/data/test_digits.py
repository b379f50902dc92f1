"""The built-in digits: real, exact grey levels, a fixed split by writer."""

import sys

import pytest
import torch

from lapflow.core.errors import BackendError, ConfigError, DataError
from lapflow.data import Digits, load_split
from lapflow.data import digits as module
from lapflow.features import PixelFeatures
from lapflow.util.random import uniform_hash


def test_known_without_loading(monkeypatch):
    monkeypatch.setattr(module, "_load", lambda: pytest.fail("the digits were read"))
    digits = Digits(held_out=0.2)
    assert digits.shape == (1, 8, 8)
    assert digits.num_classes == 10
    assert digits.class_names == tuple("0123456789")
    assert digits.grey_levels == 16


def test_pixels_are_whole_grey_levels():
    images, labels = load_split(Digits(), "train")
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    levels = (images + 1) * 8
    assert torch.equal(levels, levels.round())
    assert (levels.min(), levels.max()) == (0, 16)


def test_split_is_stratified_complete_and_fixed():
    train, test = (load_split(Digits(), split) for split in ("train", "test"))
    assert (len(train[1]), len(test[1])) == (1438, 359)
    everything = load_split(Digits(held_out=0.0), "train")[1]
    held = torch.bincount(test[1], minlength=10)
    whole = torch.bincount(everything, minlength=10)
    assert held.tolist() == [round(0.2 * n) for n in whole.tolist()]
    assert torch.equal(held + torch.bincount(train[1], minlength=10), whole)
    # The split of a published result must never move: the last images of each class in the file.
    held_out = module._split(0.2)["test"]
    assert held_out[0] == 1423
    assert held_out[-1] == 1796


def test_no_held_out():
    digits = Digits(held_out=0.0)
    assert digits.size("train") == 1797
    assert digits.size("test") == 0
    assert load_split(digits, "test")[0].shape == (0, 1, 8, 8)


def test_reading_returns_a_copy():
    digits = Digits()
    digits.read("train", 0).value.fill_(9)
    assert digits.read("train", 0).value.max() <= 1


def test_errors():
    with pytest.raises(DataError, match="no image 359"):
        Digits().read("test", 359)
    with pytest.raises(ConfigError, match="held_out"):
        Digits(held_out=1.0)


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    module._load.cache_clear()
    module._split.cache_clear()
    with pytest.raises(BackendError, match=r"lapflow\[demo\]"):
        Digits().size("train")


def test_unit_hash_is_uniform_and_stable():
    values = torch.tensor([uniform_hash("x", i) for i in range(4000)], dtype=torch.float64)
    assert 0 <= values.min() < values.max() < 1
    assert abs(values.mean() - 0.5) < 0.02
    assert uniform_hash("digits", 0) == uniform_hash("digits", 0) != uniform_hash("digit", 0)


def test_pixel_features_are_clipped_grey_levels():
    features = PixelFeatures(grey_levels=16)(torch.tensor([-1.5, -1.0, 0.0, 0.99, 3.0]).reshape(1, 1, 1, 5))
    assert features.dtype == torch.float64
    assert features.tolist()[0] == pytest.approx([0, 0, 8, 15.92, 16])
    assert PixelFeatures.schema().model_fields.keys() == {"max_side"}


def test_pixel_features_of_large_images_are_averages():
    image = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = PixelFeatures(grey_levels=255, max_side=32)(image)
    assert features.shape == (1, 3 * 32 * 32)
    assert features.mean().item() == pytest.approx(((image + 1) / 2 * 255).mean().item(), rel=1e-2)
