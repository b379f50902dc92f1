"""What is made again in the backward pass: the same gradients to the bit, of every order, for less memory."""

import weakref
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lapflow.core.live_bytes import LiveBytes
from lapflow.core.remaking import is_remaking, remade, remaking, under_remaking


class Layer(nn.Module):
    """A norm and a product, twice; the second after an activation function."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.norm = nn.LayerNorm(16)
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 16)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator)

    def forward(self, x):
        return remade(self.second, F.gelu, remade(self.first, self.norm, x))


def inputs():
    return torch.randn(5, 7, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()


AUTOCAST = {
    "fp32": (nullcontext, nullcontext),
    "bf16": (partial(torch.autocast, "cpu", torch.bfloat16), nullcontext),
    "fp32, the backward pass bf16": (nullcontext, partial(torch.autocast, "cpu", torch.bfloat16)),
}


@pytest.mark.parametrize(("forward", "backward"), AUTOCAST.values(), ids=AUTOCAST)
def test_gradients_are_the_same_to_the_bit(forward, backward):
    """Also where the two passes run in different autocasts: the results are made again as they were made."""
    layer, x = Layer(), inputs()

    def gradients():
        with forward():
            y = layer(x)
        with backward():
            return torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])

    want = gradients()
    with remaking():
        got = gradients()
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_gradients_of_gradients_are_the_same():
    layer, x = Layer(), inputs()

    def second():
        (first,) = torch.autograd.grad(layer(x).sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, *layer.parameters()], allow_unused=True)

    want = second()
    with remaking():
        got = second()
    assert all((a is None) == (b is None) for a, b in zip(want, got, strict=True))
    assert any(a is not None and a.any() for a in want)
    for a, b in zip(want, got, strict=True):
        assert a is None or torch.equal(a, b)


def kept(context):
    layer, x = Layer(), inputs()
    with context, LiveBytes() as live:
        y = layer(x)
        return live.live - y.untyped_storage().nbytes()


def test_the_results_are_not_kept():
    """Of 5 x 7 tokens: the norm [16] and GELU's [64], and nothing else, are less."""
    assert kept(nullcontext()) - kept(remaking()) == 4 * 5 * 7 * (16 + 64)


def test_nothing_outlives_the_graph():
    layer, x = Layer(), inputs()
    with remaking():
        hidden = x * 2
        y = layer(hidden)
    gone = weakref.ref(hidden.untyped_storage())
    del hidden
    assert gone() is not None
    del y
    assert gone() is None


def test_a_view_of_the_result_is_made_again_as_that_view():
    x = inputs()

    def use(y):
        return y[:, 1:].transpose(1, 2) * y[:, :-1].transpose(1, 2)

    want = torch.autograd.grad(use(x.exp()).sum(), x)[0]
    with remaking():
        got = torch.autograd.grad(remade(use, torch.exp, x).sum(), x)[0]
    torch.testing.assert_close(got, want)


W = torch.randn(16, 16, generator=torch.Generator().manual_seed(9)).requires_grad_()
LAYER_NORM = partial(F.layer_norm, normalized_shape=(16,))
USES = {
    "changes it in place": lambda y: F.relu(y, inplace=True) @ W,
    "changes a view of it in place": lambda y: (y[..., :4].mul_(2), y @ W)[1],
    "its conjugate": lambda y: (torch.complex(y, y) * torch.complex(y, y).conj()).real @ W,
    "sparse": lambda y: torch.sparse.mm(torch.eye(35).to_sparse(), y.reshape(35, 16)) @ W,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_whatever_is_done_with_the_result_gradients_are_the_same(use):
    x = inputs()
    want = torch.autograd.grad(remade(use, LAYER_NORM, x).square().sum(), [x, W])
    with remaking():
        got = torch.autograd.grad(remade(use, LAYER_NORM, x).square().sum(), [x, W])
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_a_complex_result_and_its_conjugate():
    x = inputs()

    def value():
        return (
            remade(
                lambda y: (y * y.conj() + torch.view_as_real(y).sum()).real,
                lambda x: torch.complex(x, x.sin()),
                x,
            )
            .square()
            .sum()
        )

    want = torch.autograd.grad(value(), x)[0]
    with remaking():
        got = torch.autograd.grad(value(), x)[0]
    assert torch.equal(got, want)


def test_what_was_changed_in_place_since_is_not_used():
    """A weight that `use` keeps, as autograd itself would raise; and what the result is made of, which it
    then could not know."""
    x, weight, shift = inputs(), W.detach().clone().requires_grad_(), torch.zeros(16)
    with remaking():
        first = remade(lambda y: y @ weight, LAYER_NORM, x).sum()
        second = remade(lambda y: y @ W, torch.add, x * 2, shift).sum()
    with torch.no_grad():
        weight.add_(1)
    shift.add_(1)
    for value in (first, second):
        with pytest.raises(RuntimeError, match="changed in place"):
            value.backward()


def test_transforms_that_allow_no_hooks():
    def value(x):
        return remade(lambda y: y @ W, LAYER_NORM, x).square().sum()

    x = inputs()
    with remaking():
        assert torch.allclose(torch.func.grad(value)(x), torch.autograd.grad(value(x), x)[0])


def test_it_is_made_of_all_that_is_given():
    x, shift, scale = (
        torch.randn(3, 8, generator=torch.Generator().manual_seed(s)).requires_grad_() for s in (2, 3, 4)
    )
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(5)).requires_grad_()

    def value():
        return (
            remade(
                partial(F.linear, weight=weight), lambda x, shift, scale: x * scale + shift, x, shift, scale
            )
            .square()
            .sum()
        )

    want = torch.autograd.grad(value(), [x, shift, scale, weight])
    with remaking():
        got = torch.autograd.grad(value(), [x, shift, scale, weight])
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_where_it_applies():
    assert not is_remaking()
    with remaking():
        assert is_remaking()
        with torch.no_grad():
            assert not is_remaking()
    assert under_remaking(is_remaking)()
    assert not is_remaking()
    assert not torch.compile(under_remaking(is_remaking), backend="eager", fullgraph=True)()
