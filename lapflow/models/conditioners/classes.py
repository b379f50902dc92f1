"""Class labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lapflow.core.condition import CLASS, Annotations, Classes, ClassesSpec, Condition, Conditioner, Spec
from lapflow.core.dataset import annotation


class ClassLabels(Conditioner):
    """The annotation `label` as the part `class`; nothing where the data have no classes."""

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        self.count = len(class_names)
        self.needs = ("label",) if class_names else ()

    def parts(self) -> dict[str, Spec]:
        return {CLASS: ClassesSpec(self.count)} if self.count else {}

    def __call__(self, annotations: Annotations) -> Condition:
        if not self.count:
            return Condition()
        labels = torch.tensor([int(x) for x in annotation(annotations, "label")], dtype=torch.int64)
        return Condition({CLASS: Classes(labels)})
