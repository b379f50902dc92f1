"""Bytes of what training keeps of a network's parameters, in float32; the engines say who holds what of it.

AdamW's two moments are as large as the weights each; its step counts, 4 bytes a parameter tensor at most, are
left out.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lapflow.core.engine import Held

ITEM = 4
MOMENTS = 2


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Elements."""
    return sum(p.numel() for p in parameters)


def whole(model: nn.Module) -> dict[str, Held]:
    """What a process holds that shares nothing."""
    return _of(count(model.parameters()), divided=False)


def by_rows(model: nn.Module, processes: int) -> dict[str, Held]:
    """Each parameter cut along its first dimension into equal parts, the last one padded."""
    return _of(
        sum(
            -(-p.shape[0] // processes) * (p.numel() // p.shape[0]) if p.ndim else 1
            for p in model.parameters()
        ),
        divided=True,
    )


def part(elements: int, processes: int) -> int:
    """Bytes of a process's part of so many elements, cut into equal parts, the last one padded."""
    return ITEM * -(-elements // processes)


def _of(elements: int, divided: bool) -> dict[str, Held]:
    size = ITEM * elements
    return {
        "weights": Held(size, divided),
        "gradients": Held(size, divided),
        "moments": Held(MOMENTS * size, divided),
        "average": Held(size, divided),
    }
