"""What all kits share: how a component is made, that it is one, and helpers for random and equal tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from lapflow.core.component import Component
from lapflow.plugins.registry import check_contract
from lapflow.util.random import keyed_generator, rand, randn

C = TypeVar("C", bound=Component, covariant=True)


class Conformance(Generic[C]):
    """Base of every kit. `kind` names the contract; `make` builds the component under test, and `made` says
    in its error for what, such as ", for self.bands"."""

    kind: str
    made: ClassVar[str] = ""

    def make(self) -> C:
        """The component under test, made anew at each call."""
        raise NotImplementedError(f"override make() to return the {self.kind} under test{self.made}")

    def test_is_a_component_of_its_kind(self) -> None:
        """A subclass of the contract that implements all of it."""
        check_contract(self.kind, type(self.make()), type(self.make()).__name__, "the class under test")

    def test_config_rebuilds_it(self) -> None:
        """What it was made with is its config, and passes its own schema."""
        component = self.make()
        config, schema = dict(component.config), type(component).schema()
        assert set(config) == set(schema.model_fields), "the config names every argument and nothing else"
        schema.model_validate(config)


def normal(*shape: int, key: object = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A standard normal tensor that is a function of its shape and `key`."""
    return randn(shape, keyed_generator("conformance", repr(key), *shape), dtype=dtype, device="cpu")


def pictures(count: int, shape: tuple[int, ...], key: str) -> Tensor:
    """[count, *shape], uniform in [-1, 1): a function of its shape and `key`."""
    return 2 * rand((count, *shape), keyed_generator(key), dtype=torch.float32, device="cpu") - 1


def relative(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want| in the maximum norm; |got| where `want` is zero."""
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).abs().max()) / (float(want.abs().max()) or 1.0)


def equal(got: Mapping[Any, Tensor], want: Mapping[Any, Tensor]) -> bool:
    """Whether `got` holds the tensors of `want`, to the bit."""
    return all(torch.equal(got[key], x) for key, x in want.items())


def near(got: Mapping[int, Tensor], want: Mapping[int, Tensor], bound: float) -> bool:
    """Whether |got - want| <= `bound` in the maximum norm, at every scale of `want`."""
    return all(bool((got[k] - x).abs().max() <= bound) for k, x in want.items())


def is_json(value: Any) -> bool:
    """Whether a value survives JSON as it is. Raises `TypeError` for one that JSON cannot hold."""
    return bool(json.loads(json.dumps(value)) == value)


def error_of(error: type[Exception], call: Callable[[], object]) -> Exception:
    """The `error` that `call` raises; an AssertionError if it raises none."""
    try:
        call()
    except error as raised:
        return raised
    raise AssertionError(f"expected {error.__name__}, nothing was raised")
