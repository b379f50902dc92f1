"""Components: a notebook's arguments are checked by the same schema as a config's."""

from typing import Annotated

import pytest
from pydantic import Field

from lapflow.core.component import Component
from lapflow.core.errors import ConfigError
from lapflow.pyramids import LaplacianPyramid
from lapflow.schedules import CumulativeIntervals


def test_a_component_carries_its_config():
    assert LaplacianPyramid(levels=3).config == {"levels": 3, "axes": 2}
    assert CumulativeIntervals().config == {
        "starts": (0.0, 0.5),
        "segment_sampling": "batch",
        "weights": None,
    }


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LaplacianPyramid(level=3), ["levels"]),
        (lambda: LaplacianPyramid(levels=0), ["levels", "0", "greater than or equal to 1"]),
        (lambda: LaplacianPyramid(levels="3"), ["levels", "'3'"]),
        (lambda: LaplacianPyramid(levels=True), ["levels", "True"]),
        (lambda: LaplacianPyramid(3), ["positional"]),
        (
            lambda: CumulativeIntervals(segment_sampling="bach"),
            ["segment_sampling", "'batch', 'sample' or 'balanced'"],
        ),
    ],
)
def test_bad_arguments_name_what_came_and_what_was_expected(make, words):
    with pytest.raises(ConfigError) as error:
        make()
    assert all(word in str(error.value) for word in words), str(error.value)


class Base(Component):
    kind = "test"
    context = ("surroundings",)

    def __init__(
        self, surroundings: str, *, size: Annotated[int, Field(ge=1, description="how many")] = 1
    ) -> None:
        self.surroundings, self.size = surroundings, size


class Derived(Base):
    def __init__(self, surroundings: str, *, size: int = 2, extra: float = 0.5) -> None:
        super().__init__(surroundings, size=size)
        self.extra = extra


def test_context_stands_outside_the_schema_and_subclasses_check_once():
    assert list(Base.schema().model_fields) == ["size"]
    made = Derived("here", size=3)
    assert (made.surroundings, made.size, made.extra) == ("here", 3, 0.5)
    assert made.config == {"size": 3, "extra": 0.5}
    assert Derived.schema().model_json_schema()["properties"]["extra"]["default"] == 0.5


def test_what_a_subclass_settles_is_no_option_of_it():
    class Settling(Base):
        settled = ("size",)

    assert list(Settling.schema().model_fields) == []
    assert Settling("here").config == {}
    with pytest.raises(ConfigError, match="Settling has no key 'size'"):
        Settling("here", size=3)


def test_a_required_argument_is_named_with_its_meaning():
    class Needs(Component):
        kind = "test"

        def __init__(self, *, root: Annotated[str, Field(description="folder of the images")]) -> None:
            self.root = root

    with pytest.raises(ConfigError, match="root"):
        Needs()
