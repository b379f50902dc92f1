"""The linear layers, by whichever kernel: the same function, the same derivatives of every order and kind,
the same count."""

import itertools
import math
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from lapflow.models import linear
from lapflow.models.linear import ONEDNN, Linear, LinearGELU

WITHOUT = (nullcontext, torch.no_grad, torch.inference_mode)


@pytest.fixture(params=[False, True], ids=["torch", "oneDNN"])
def preferred(request, monkeypatch):
    """Whether plain products are oneDNN's, whatever this processor is; and what its kernel is called with:
    the shapes of x and W."""
    used = []
    monkeypatch.setattr(linear, "PREFERRED", request.param)
    monkeypatch.setattr(linear, "LEAST", 0)
    monkeypatch.setattr(
        linear, "ONEDNN", lambda *a: used.append([tuple(t.shape) for t in a[:2]]) or ONEDNN(*a)
    )
    return request.param, used


def drawn(layer, *shape):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return layer, torch.randn(shape, generator=generator)


def line(x, w, b):
    """x W^T + b in float64, by einsum."""
    return torch.einsum("...k,mk->...m", x.double(), w.double()) + b.double()


def gelu(x, w, b):
    wide = line(x, w, b)
    return wide / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))


KINDS = pytest.mark.parametrize(("kind", "want"), [(Linear, line), (LinearGELU, gelu)])


@KINDS
@pytest.mark.parametrize(
    "shape", [(5,), (3, 5), (0, 5), (1, 300, 5), (2, 3, 5), (2, 0, 5), (512, 5), (3, 257, 5)]
)
def test_values(preferred, kind, want, shape):
    layer, x = drawn(kind(5, 7), *shape)
    strided = [x.mT.contiguous().mT, x.new_ones(()).expand(shape)] if len(shape) > 1 else []
    for given, without in itertools.product([x, *strided], WITHOUT):
        with without():
            torch.testing.assert_close(
                layer(given).double(), want(given, *layer.parameters()), rtol=1e-5, atol=1e-5
            )
    with torch.inference_mode():
        torch.testing.assert_close(layer.double()(x.double()), want(x, *layer.parameters()))


@KINDS
def test_parameters_of_any_strides(preferred, kind, want):
    layer, x = drawn(kind(5, 7), 3, 5)
    given = {
        "weight": layer.weight.detach().mT.contiguous().mT,
        "bias": torch.stack([layer.bias.detach()] * 2, dim=1)[:, 0],
    }
    for bias, without in itertools.product((given["bias"], torch.full((1,), 0.3).expand(7)), WITHOUT):
        with without():
            found = torch.func.functional_call(layer, {**given, "bias": bias}, x)
            torch.testing.assert_close(found.double(), want(x, given["weight"], bias), rtol=1e-5, atol=1e-5)


@KINDS
@pytest.mark.parametrize("shape", [(2, 3, 5), (0, 5), (2, 0, 5), (256, 5), (2, 300, 5), (3, 256, 5)])
def test_derivatives_of_two_orders(preferred, kind, want, shape):
    layer, x = drawn(kind(5, 7), *shape)
    x.requires_grad_()

    def derivatives(f, again):
        inputs = [x, *layer.parameters()]
        first = torch.autograd.grad(f().sin().mean(), inputs, create_graph=again)
        return (
            [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), inputs)] if again else first
        )

    for again in (False, True):
        found = derivatives(lambda: layer(x), again)
        for one, wanted in zip(found, derivatives(lambda: want(x, *layer.parameters()), again)):
            torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-4)
    assert bool(preferred[1]) == (preferred[0] and math.prod(shape[:-1]) >= 256)


@KINDS
@pytest.mark.parametrize("rows", [3, 300])
def test_a_graph_made_outside_is_differentiated_under_vmap(preferred, kind, want, rows):
    """Some rows of a Jacobian at once."""
    layer, x = drawn(kind(5, 7), rows, 5)
    x.requires_grad_()
    y, along = layer(x), torch.eye(rows * 7).view(-1, rows, 7)[:20]
    inputs = (x, layer.weight, layer.bias)
    found = torch.func.vmap(lambda row: torch.autograd.grad(y, inputs, row, retain_graph=True))(along)
    wanted = [torch.autograd.grad(want(*inputs), inputs, row.double()) for row in along]
    for a, b in zip(found, zip(*wanted)):
        torch.testing.assert_close(a, torch.stack(b), rtol=1e-4, atol=1e-4)


def laid_out(n):
    """x [n, 5] in every layout."""
    generator = torch.Generator().manual_seed(1)
    return {
        "columns": torch.randn(n, 10, generator=generator).chunk(2, dim=1)[1],
        "every other": torch.randn(2 * n, 5, generator=generator)[::2],
        "transposed": torch.randn(5, n, generator=generator).mT,
        "one row": torch.randn(5, generator=generator).expand(n, 5),
        "overlapping": torch.randn(n + 4, generator=generator).unfold(0, 5, 1),
    }


@KINDS
@pytest.mark.parametrize("layout", laid_out(1))
@pytest.mark.parametrize("n", [256, 600])
@pytest.mark.parametrize("m", [7, 3])
def test_derivatives_in_every_layout(preferred, kind, want, layout, n, m):
    """To more and to fewer than come in: the weight's is then made the one or the other way round."""
    layer, _ = drawn(kind(5, m), n, 5)
    x, wide = (
        laid_out(n)[layout].detach().requires_grad_(),
        torch.randn(n, 14, generator=torch.Generator().manual_seed(2)),
    )
    for g in (wide[:, -m:], wide[:, :m].mT.contiguous().mT, wide[0, :m].expand(n, m)):
        found = torch.autograd.grad(layer(x), (x, *layer.parameters()), g)
        for one, wanted in zip(
            found, torch.autograd.grad(want(x, *layer.parameters()), (x, *layer.parameters()), g.double())
        ):
            torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rows", [3, 600])
def test_without_a_bias(preferred, rows):
    layer, x = drawn(Linear(5, 7, bias=False), rows, 5)
    along = torch.ones_like(x)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, along))).tangent
    torch.testing.assert_close(tangent, along @ layer.weight.mT, rtol=1e-5, atol=1e-5)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(7, 5), rtol=1e-4, atol=1e-4)


@KINDS
@pytest.mark.parametrize("rows", [3, 600])
def test_derivatives_of_the_other_kind_of_derivatives(preferred, kind, want, rows):
    """Tangents of gradients, by dual numbers and under torch.func, of a graph made before or inside."""
    layer, x = drawn(kind(5, 7), rows, 5)
    x.requires_grad_()
    inputs = (x, *layer.parameters())
    along = torch.randn(rows, 5, generator=torch.Generator().manual_seed(1))

    def gradients(f, moved):
        return torch.autograd.grad(f(moved, *layer.parameters()).sin().sum(), (x, *layer.parameters()))

    with forward_ad.dual_level():
        found = [
            forward_ad.unpack_dual(g).tangent
            for g in gradients(lambda x, *_: layer(x), forward_ad.make_dual(x, along))
        ]
        wanted = [forward_ad.unpack_dual(g).tangent for g in gradients(want, forward_ad.make_dual(x, along))]
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)

    g, moved = torch.randn(2, rows, 7, generator=torch.Generator().manual_seed(2))
    y, exact = layer(x), want(*inputs)
    found = torch.func.jvp(lambda g: torch.autograd.grad(y, inputs, g, retain_graph=True), (g,), (moved,))[1]
    for a, b in zip(found, torch.autograd.grad(exact, inputs, moved.double())):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_what_no_derivative_needs_is_not_kept(preferred, frozen):
    """So its memory is free."""
    layer, x = drawn(Linear(5, 7), 300, 5)
    values = {"x": x, "weight": layer.weight.detach()}
    [moved] = values.keys() - {frozen}
    values[moved] = values[moved].requires_grad_() * 1
    kept = {name: weakref.ref(value) for name, value in values.items()}
    y = torch.func.functional_call(
        layer, {"weight": values["weight"], "bias": layer.bias.detach()}, values.pop("x")
    )
    del x
    values.clear()
    assert (kept[frozen]() is not None, kept[moved]()) == (True, None)
    y.sum().backward()


def test_what_looks_on_sees_torch_s_layer(preferred):
    layer, x = drawn(LinearGELU(5, 7), 600, 5)
    for without in WITHOUT:
        with without():
            traced = torch.jit.trace(layer, x)
            torch.testing.assert_close(traced(2 * x), layer(2 * x), rtol=1e-5, atol=1e-5)
    w = layer.weight.detach().requires_grad_()
    make_fx(lambda x, w: torch.func.functional_call(layer, {"weight": w}, x))(x, w.detach())(
        x, w
    ).sum().backward()
    assert w.grad.abs().min() > 0


def test_a_tensor_of_another_class_is_multiplied_by_it(preferred):
    class Other(torch.Tensor):
        pass

    layer, x = drawn(Linear(5, 7), 300, 5)
    assert type(layer(x.as_subclass(Other))) is Other
    assert preferred[1] == []


def test_training_with_any_number_of_rows_shows_onednn_few_shapes(preferred):
    """It keeps megabytes for each."""
    layer = Linear(5, 7)
    for n in [*range(1, 3000, 7), 8191, 8192, 20_000]:
        layer(torch.randn(n, 5, requires_grad=True)).sum().backward()
    sizes = [256 << i for i in range(6)]
    few = {(5, n) for n in sizes} | {(n, 5) for n in sizes} | {(n, 7) for n in sizes}
    assert {x for x, _ in preferred[1]} == (few if preferred[0] else set())


@KINDS
@pytest.mark.parametrize("of", [("x",), ("weight",), ("bias",), ("x", "weight", "bias")])
@pytest.mark.parametrize("rows", [3, 300])
def test_forward_derivatives(preferred, kind, want, of, rows):
    layer, x = drawn(kind(5, 7), 2, rows, 5)
    values = {"x": x, "weight": layer.weight.detach(), "bias": layer.bias.detach()}
    along = {name: torch.randn(values[name].shape, generator=torch.Generator().manual_seed(1)) for name in of}
    wanted = torch.func.jvp(
        lambda *moved: want(*{**values, **dict(zip(of, moved))}.values()),
        tuple(values[name] for name in of),
        tuple(along.values()),
    )[1]
    with forward_ad.dual_level(), torch.no_grad():
        dual = {
            name: forward_ad.make_dual(v, along[name]) if name in along else v for name, v in values.items()
        }
        found = torch.func.functional_call(layer, {"weight": dual["weight"], "bias": dual["bias"]}, dual["x"])
        torch.testing.assert_close(
            forward_ad.unpack_dual(found).tangent.double(), wanted, rtol=1e-4, atol=1e-4
        )


@KINDS
def test_function_transforms(preferred, kind, want):
    layer, x = drawn(kind(5, 7), 300, 5)
    with torch.no_grad():
        wanted = torch.func.jvp(lambda x: want(x, *layer.parameters()), (x,), (torch.ones_like(x),))[1]
    for without in WITHOUT:
        with without():
            found = torch.func.jvp(layer, (x,), (torch.ones_like(x),))[1]
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(
                torch.func.vmap(layer)(x[None])[0].double(),
                want(x, *layer.parameters()),
                rtol=1e-4,
                atol=1e-4,
            )


@KINDS
@pytest.mark.parametrize("rows", [3, 600])
def test_multiply_adds_are_counted_as_torch_counts_them(preferred, kind, want, rows):
    layer, x = drawn(kind(5, 7), rows, 5)
    x.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * rows * 5 * 7
    y = layer(x).sum()
    with FlopCounterMode(display=False) as counter:
        y.backward()
    assert counter.get_total_flops() == 2 * 2 * rows * 5 * 7
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        layer(x.detach())
    assert counter.get_total_flops() == 2 * rows * 5 * 7


@KINDS
def test_compiles_whole(preferred, kind, want):
    torch._dynamo.reset()
    layer, x = drawn(kind(5, 7), 300, 5)
    for without in WITHOUT:
        with without():
            found = torch.compile(layer, fullgraph=True, backend="eager")(x)
            torch.testing.assert_close(found.double(), want(x, *layer.parameters()), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused_in_torch_s_words(preferred):
    for layer, x in ((Linear(5, 7), torch.randn(3, 6)), (LinearGELU(5, 7), torch.randn(3, 6))):
        with torch.inference_mode(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            layer(x)


@KINDS
def test_who_computes(preferred, kind, want):
    """In inference mode oneDNN where it is preferred, and with GELU everywhere; never under autocast or in
    another precision."""
    prefer, used = preferred
    layer, x = drawn(kind(5, 7), 300, 5)
    with torch.inference_mode():
        layer(x)
    assert used == [[(300, 5), (7, 5)]] * (prefer or kind is LinearGELU), "whole"
    for without in WITHOUT:
        with without(), torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    assert len(used) == (prefer or kind is LinearGELU)


def test_small_products_are_torch_s_with_gradients(monkeypatch):
    used = []
    monkeypatch.setattr(linear, "PREFERRED", True)
    monkeypatch.setattr(linear, "ONEDNN", lambda *a: used.append(a) or ONEDNN(*a))
    for n, width, by_onednn in ((255, 512, False), (256, 256, True), (256, 255, False)):
        layer, x = drawn(Linear(256, width), n, 256)
        layer(x)
        assert bool(used) == by_onednn, (n, width)
        used.clear()
