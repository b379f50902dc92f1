"""Contract: what a data set says of its samples (class, caption, numbers), turned into what a network is
given."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from lapflow.core.component import Component
from lapflow.core.condition import Condition, Spec

Annotations = Mapping[str, Sequence[Any]]
"""What is said of the samples of a batch: by the annotation's name, one value per sample."""


class Conditioner(Component):
    """Annotations of a batch of samples -> parts of a `Condition`. It has no weights: what is learnt about a
    part, its embedding, is the network's.

    Context: `class_names` of the data, in the order of the labels; empty for data without classes.
    """

    kind = "conditioner"
    context = ("class_names",)

    needs: tuple[str, ...] = ()
    """The annotations that it reads."""

    @abstractmethod
    def parts(self) -> Mapping[str, Spec]:
        """What the network must embed, by the part's name. Empty: nothing is given."""

    @abstractmethod
    def __call__(self, annotations: Annotations) -> Condition:
        """The parts of b samples, on the CPU; each as its spec says. A pure function of each sample's own
        annotations. Raises `DataError` where one of `needs` is missing, and for a value that it cannot
        take."""
