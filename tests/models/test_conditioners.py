"""Conditioners: what they make of annotations, and what they refuse."""

import pytest
import torch

from lapflow.core.condition import CAPTION, CLASS, NULL, VECTOR
from lapflow.core.errors import ConfigError, DataError
from lapflow.models.conditioners import PAD, ByteCaptions, ClassLabels, NumberVector


def test_classes_are_the_labels_and_nothing_without_classes():
    given = ClassLabels(("ant", "bee"))({"label": [1, 0, 1]})
    assert given.labels.tolist() == [1, 0, 1]
    assert given.drop(torch.tensor([True, False, False])).labels.tolist() == [NULL, 0, 1]
    assert not ClassLabels()({}).parts
    assert list(ClassLabels(("ant",)).parts()) == [CLASS]


def test_numbers_are_standardised_in_the_order_of_their_names():
    made = NumberVector(names=["b", "a"], mean=[1.0, 0.0], std=[2.0, 1.0])({"a": [3.0, 4.0], "b": [5.0, 7.0]})
    assert made.parts[VECTOR].value.tolist() == [[2.0, 3.0], [3.0, 4.0]]


def test_captions_are_their_bytes_and_padding():
    ids = ByteCaptions(length=6)({"caption": ["Käfer", ""]}).parts[CAPTION].value
    assert bytes(ids[0].tolist()).decode() == "Käfer"
    assert ids[1].tolist() == [PAD] * 6


def test_a_long_caption_is_refused_or_cut():
    said = {"caption": ["a large seven"]}
    with pytest.raises(DataError, match="13 bytes"):
        ByteCaptions(length=7)(said)
    assert bytes(ByteCaptions(length=7, truncate=True)(said).parts[CAPTION].value[0].tolist()) == b"a large"


@pytest.mark.parametrize("bad", [["nan"], ["x"], [None]])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(DataError, match="angle"):
        NumberVector(names=["angle"])({"angle": bad})


def test_settings_that_do_not_fit_are_refused():
    for settings in ({"mean": [0.0, 1.0]}, {"std": [0.0]}):
        with pytest.raises(ConfigError, match="names"):
            NumberVector(names=["angle"], **settings)
    with pytest.raises(DataError, match="caption"):
        ByteCaptions()({"caption": [3]})
