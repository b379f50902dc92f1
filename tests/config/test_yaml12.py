"""YAML as lapflow reads it: 1.2 numbers, true and false only, no aliases that hold themselves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapflow.config.loading import read_value, read_yaml, write_yaml
from lapflow.core.errors import ConfigError

READ = {
    "1e-5": 1e-5,
    "1E5": 1e5,
    "-.5": -0.5,
    "1.": 1.0,
    "0x1f": 31,
    "0o17": 15,
    "010": 10,
    "1_000": "1_000",
    "12:30:45": "12:30:45",
    "2024-01-01": "2024-01-01",
    "on": "on",
    "off": "off",
    "yes": "yes",
    "no": "no",
    "y": "y",
    "true": True,
    "False": False,
    "null": None,
    "~": None,
    "": None,
    ".inf": math.inf,
    "-.inf": -math.inf,
    "'1'": "1",
    "1.2.3": "1.2.3",
    "[0, 0.2]": [0, 0.2],
    "{name: x, a: [1]}": {"name": "x", "a": [1]},
    "/data/images": "/data/images",
    "<<": "<<",
}


@pytest.mark.parametrize(("text", "value"), READ.items())
def test_scalars(text, value):
    got = read_value(text, "test")
    assert got == value
    assert type(got) is type(value)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=12)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
    ),
)


@given(st.dictionaries(st.text("abcdef", min_size=1), values, max_size=4))
def test_what_is_written_is_read_back(document):
    assert read_yaml(write_yaml(document), "test").values == document


def test_words_that_look_like_numbers_stay_words():
    words = {"a": "1e-5", "b": "on", "c": "12", "d": "null", "e": ".inf", "f": "0o7"}
    assert read_yaml(write_yaml(words), "test").values == words


def test_every_line_is_known():
    layer = read_yaml("a: 1\nb:\n  c: [1,\n    2]\n", "file.yaml")
    assert layer.origins[("a",)] == "file.yaml:1"
    assert layer.origins[("b", "c")] == "file.yaml:3"
    assert layer.origins[("b", "c", "1")] == "file.yaml:4"


def test_aliases_are_read_but_not_in_a_circle():
    assert read_value("{a: &x [1], b: *x}", "test") == {"a": [1], "b": [1]}
    with pytest.raises(ConfigError, match="holds itself"):
        read_value("&x [*x]", "test")
