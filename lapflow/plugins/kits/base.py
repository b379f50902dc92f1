"""What all kits share: how a component is made, that it is a component, and helpers for random tensors and
errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lapflow.core.component import Component
from lapflow.plugins.source import check_contract
from lapflow.util.random import keyed_generator, randn


class Conformance:
    """Base of every kit. `kind` names the contract; `make` builds the component under test."""

    kind: str

    def make(self) -> Any:
        """The component under test, made anew at each call."""
        raise NotImplementedError("override make() to return the component under test")

    def test_is_a_component_of_its_kind(self) -> None:
        """A subclass of the contract that implements all of it."""
        check_contract(self.kind, type(self.make()), type(self.make()).__name__, "the class under test")

    def test_config_rebuilds_it(self) -> None:
        """What it was made with is its config, and passes its own schema."""
        component: Component = self.make()
        config = dict(component.config)
        assert set(config) == set(type(component).schema().model_fields), (
            "the config names every argument and nothing else"
        )
        type(component).schema().model_validate(config)


def normal(*shape: int, key: object = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A standard normal tensor that is a function of its shape and `key`."""
    return randn(shape, keyed_generator("conformance", repr(key), *shape), dtype=dtype, device="cpu")


def relative(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want| in the maximum norm; |got| where `want` is zero."""
    difference, size = (
        (got.detach().double() - want.detach().double()).abs().max(),
        want.detach().double().abs().max(),
    )
    return float(difference) / (float(size) or 1.0)


def error_of(error: type[Exception], call: Callable[[], object]) -> Exception:
    """The `error` that `call` raises; an AssertionError if it raises none."""
    try:
        call()
    except error as raised:
        return raised
    raise AssertionError(f"expected {error.__name__}, nothing was raised")
