"""The glyphs: a pure function of (seed, split, index), real typefaces, what does not work refused."""

import shutil

import pytest
import torch

from lapflow.core.errors import BackendError, DataError
from lapflow.data.glyphs import CLASSES, Glyphs, usable_typefaces


@pytest.mark.parametrize("size", [16, 32, 64])
def test_images_are_a_function_of_seed_split_and_index(size):
    one, again, other = Glyphs(size=size), Glyphs(size=size), Glyphs(size=size, seed=1)
    sample = one.read("train", 70)
    image, label = sample.value, sample.annotations.get("label", 0)
    assert image.shape == one.shape == (1, size, size)
    assert image.dtype == torch.float32
    assert label == 70 - 62
    assert torch.equal(image, again.read("train", 70).value)
    assert not torch.equal(image, other.read("train", 70).value)
    assert not torch.equal(image, one.read("test", 70).value)
    assert not torch.equal(image, one.read("train", 70 + 62).value)


def test_every_class_is_drawn_and_nothing_is_cut_off():
    """White on black, both there; the frame stays nearly empty."""
    data = Glyphs(size=32)
    for index in range(62 * 8):
        sample = data.read("train", index)
        image, label = sample.value, sample.annotations.get("label", 0)
        assert label == index % 62
        assert image.min() == -1
        assert image.max() > 0, CLASSES[label]
        frame = torch.cat([image[0, 0], image[0, -1], image[0, :, 0], image[0, :, -1]])
        assert (frame > 0).float().mean() < 0.2, CLASSES[label]
    assert len(CLASSES) == data.num_classes == 62


def test_typefaces_can_be_held_out():
    data = Glyphs(held_out="typefaces")
    train, test = set(data._typefaces("train")), set(data._typefaces("test"))
    assert not train & test
    assert len(train | test) == len(usable_typefaces(None)) >= 20
    assert not [
        path
        for path in train | test
        if any(name in path for name in ("cmsy", "cmex", "STIXSiz", "LastResort"))
    ]


def test_a_folder_of_one_s_own(tmp_path):
    source = usable_typefaces(None)[0]
    shutil.copy(source, tmp_path / "mine.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"not a typeface")
    data = Glyphs(fonts=str(tmp_path), train=10, test=0)
    assert data.size("train") == 10
    assert data.size("test") == 0
    assert data.read("train", 3).value.max() > 0
    with pytest.raises(DataError, match="no image 10"):
        data.read("train", 10)
    with pytest.raises(DataError, match="too few typefaces"):
        Glyphs(fonts=str(tmp_path), held_out="typefaces").size("train")


def test_no_typefaces(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="does not exist"):
        Glyphs(fonts=str(tmp_path / "nowhere")).size("train")
    with pytest.raises(DataError, match="no usable typeface"):
        Glyphs(fonts=str(tmp_path)).size("train")
    usable_typefaces.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(BackendError, match=r"lapflow\[demo\]"):
        Glyphs().size("train")
