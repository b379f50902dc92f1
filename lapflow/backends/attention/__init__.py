"""Attention kernels: `SDPA`, `Flash`, `Xformers`, `Flex`, and `Auto`, which takes the first that can run.

Nothing is imported before it is named: a kernel's package is first touched when its backend is made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lapflow.core.attention import AttentionBackend

if TYPE_CHECKING:
    from lapflow.backends.attention.auto import Auto
    from lapflow.backends.attention.flash import Flash
    from lapflow.backends.attention.flex import Flex
    from lapflow.backends.attention.sdpa import SDPA
    from lapflow.backends.attention.xformers import Xformers

__all__ = ["SDPA", "Auto", "Flash", "Flex", "Xformers", "resolve"]


def resolve(choice: str | AttentionBackend) -> AttentionBackend:
    """A backend from its name (built in, registered, or a plugin's); an instance passes through."""
    if isinstance(choice, AttentionBackend):
        return choice
    from lapflow.plugins.registry import create

    return create("attention", {"name": choice})


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{name.lower()}"), name)
