"""The conditioner contract: parts as their specs say, each sample's a function of its own annotations."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch

from lapflow.core.condition import Annotations, Conditioner, check_condition
from lapflow.core.errors import DataError
from lapflow.plugins.kits.base import Conformance, error_of


class ConditionerConformance(Conformance):
    """`annotations` are what is said of some samples, no two alike; `class_names` is the context."""

    kind = "conditioner"
    class_names: ClassVar[tuple[str, ...]] = ("ant", "bee", "cat")
    annotations: ClassVar[Annotations] = {
        "label": [0, 1, 2],
        "caption": ["a six", "a large seven", "ein Käfer"],
        "angle": [0.0, 0.5, 2.0],
    }

    def make(self) -> Conditioner:
        raise NotImplementedError(
            "override make() to return the conditioner under test, for self.class_names"
        )

    def rows(self, *index: int) -> dict[str, list[Any]]:
        return {name: [values[i] for i in index] for name, values in self.annotations.items()}

    def test_parts_are_as_their_specs_say(self) -> None:
        """The names of `parts`, one row per sample, on the CPU."""
        conditioner = self.make()
        given = conditioner(self.annotations)
        assert given.parts.keys() == conditioner.parts().keys()
        check_condition(given, 3, conditioner.parts())
        assert all(x.device.type == "cpu" for x in given.tensors())

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        """A sample alone, and in another order; from another instance."""
        whole, other = self.make()(self.annotations), self.make()
        for i in range(3):
            alone, last = other(self.rows(i)), other(self.rows((i + 1) % 3, i)).rows(slice(1, 2))
            for found in (alone, last):
                mine = whole.rows(slice(i, i + 1)).tensors()
                assert all(torch.equal(a, b) for a, b in zip(found.tensors(), mine, strict=True))

    def test_samples_told_apart(self) -> None:
        """Different annotations give different parts; a null is none of them."""
        given = self.make()(self.annotations)
        for part in given.parts.values():
            rows = [part.rows(slice(i, i + 1)) for i in range(3)] + [part.null().rows(slice(0, 1))]
            told = [[x.tolist() for x in row.tensors()] for row in rows]
            assert all(told[i] != told[j] for i in range(4) for j in range(i))

    def test_what_it_needs_is_asked_for(self) -> None:
        """Without an annotation that it `needs` it raises; others it does not miss."""
        conditioner = self.make()
        conditioner({name: self.annotations[name] for name in conditioner.needs})
        for name in conditioner.needs:
            rest = {other: values for other, values in self.annotations.items() if other != name}
            assert name in str(error_of(DataError, functools.partial(conditioner, rest)))
