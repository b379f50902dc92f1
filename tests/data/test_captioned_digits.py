"""Scenes with captions: what a caption says is in the scene."""

import pytest
import torch

from benchmarks.captions import agreement, quarters, reader, real
from lapflow.core.errors import DataError
from lapflow.data.captioned_digits import CaptionedDigits


def test_the_reader_reads_real_scenes():
    """Places and sizes by their pixels, digits by a classifier that saw other people's handwriting."""
    dataset = CaptionedDigits(train=1500, test=300)
    images, captions = real(dataset, "test", 300)
    read = reader(dataset)
    assert agreement(read, images, captions) >= 0.85
    assert agreement(read, images, captions[1:] + captions[:1]) <= 0.05, "another scene's captions"
    assert agreement(read, images.flip(-1), captions) <= 0.3
    assert all(len(caption.encode()) <= 56 for caption in captions)


def test_a_scene_is_a_function_of_seed_split_and_index():
    one, again, other = CaptionedDigits(), CaptionedDigits(), CaptionedDigits(seed=1)
    first = one.read("train", 5)
    assert torch.equal(first.value, again.read("train", 5).value)
    assert first.annotations == again.read("train", 5).annotations
    assert not torch.equal(first.value, other.read("train", 5).value)
    assert not torch.equal(first.value, one.read("test", 5).value)


def test_as_many_quarters_have_ink_as_the_caption_has_claims():
    images, captions = real(CaptionedDigits(), "train", 50)
    inked = (quarters(images) > -1).flatten(2).any(-1).sum(1)
    assert inked.tolist() == [len(caption.split("; ")) for caption in captions]


def test_a_scene_has_no_mirror_image():
    with pytest.raises(DataError, match="mirror"):
        CaptionedDigits().require_mirrored()
