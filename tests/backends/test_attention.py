"""Every attention backend against a masked softmax in float64, written here a second time."""

import logging
import math
import subprocess
import sys
import types

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lapflow.backends import attention
from lapflow.backends.attention import SDPA, Auto, Flash, Flex, Xformers, resolve
from lapflow.core.attention import attention_pairs, scale_attention
from lapflow.core.errors import BackendError, ConfigError

HERE = ["sdpa", "auto", "flex"]
MASKS = ["none", "self", "causal"]
CPU = torch.device("cpu")


def draw(batch, heads, tokens, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, heads, tokens, dim, generator=generator) for _ in range(3)]


def allowed(lengths, mask):
    """[n, n], true where the query in the row may see the key in the column; scales stand coarse to fine."""
    scale = [i for i, length in enumerate(lengths) for _ in range(length)]
    sees = {"none": lambda q, k: True, "self": lambda q, k: q == k, "causal": lambda q, k: k <= q}[mask]
    return torch.tensor([[sees(q, k) for k in scale] for q in scale])


def attend_by_scale(backend, q, k, v, lengths, mask):
    """`scale_attention` of whole sequences."""
    return torch.cat(
        scale_attention(backend, *(x.split(tuple(lengths), dim=2) for x in (q, k, v)), mask), dim=2
    )


def reference(q, k, v, lengths, mask):
    """Masked softmax in float64."""
    logits = torch.einsum("bhnd,bhmd->bhnm", q.double(), k.double()) / math.sqrt(q.shape[-1])
    weights = logits.masked_fill(~allowed(lengths, mask), -math.inf).exp()
    return torch.einsum("bhnm,bhmd->bhnd", weights / weights.sum(-1, keepdim=True), v.double())


@pytest.mark.parametrize("name", HERE)
@settings(max_examples=25, deadline=None)
@example(
    lengths=[1, 4], batch=5, heads=2, dim=8, mask="causal"
)  # batch == sequence length: a swapped axis cannot hide
@example(lengths=[1], batch=1, heads=1, dim=1, mask="none")
@example(lengths=[1, 1, 1], batch=3, heads=3, dim=16, mask="self")
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    batch=st.integers(1, 5),
    heads=st.integers(1, 3),
    dim=st.sampled_from([1, 4, 16]),
    mask=st.sampled_from(MASKS),
)
def test_equals_a_masked_softmax(name, lengths, batch, heads, dim, mask):
    q, k, v = draw(batch, heads, sum(lengths), dim)
    got = attend_by_scale(resolve(name), q, k, v, lengths, mask)
    assert got.dtype == q.dtype
    torch.testing.assert_close(got.double(), reference(q, k, v, lengths, mask), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", HERE)
def test_takes_strided_views(name):
    """q, k and v as a fused projection leaves them."""
    q, k, v = torch.randn(2, 7, 3, 2, 8).permute(2, 0, 3, 1, 4)
    assert not q.is_contiguous()
    got = attend_by_scale(resolve(name), q, k, v, [2, 5], "causal")
    torch.testing.assert_close(got.double(), reference(q, k, v, [2, 5], "causal"), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_the_dtype(name, dtype):
    q, k, v = (x.to(dtype) for x in draw(2, 2, 6, 8))
    got = attend_by_scale(resolve(name), q, k, v, [1, 5], "causal")
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), reference(q, k, v, [1, 5], "causal"), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("mask", ["self", "causal"])
def test_a_scale_is_bit_equal_whatever_the_unseen_scales_hold(name, mask):
    lengths, unseen = [3, 1, 8], slice(4, 12)
    q, k, v = draw(2, 2, 12, 8)
    before = attend_by_scale(resolve(name), q, k, v, lengths, mask)
    for x in (q, k, v):
        x[:, :, unseen] = torch.randn(2, 2, 8, 8) * 100
    after = attend_by_scale(resolve(name), q, k, v, lengths, mask)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.equal(before[:, :, unseen], after[:, :, unseen])


@pytest.mark.parametrize("name", ["sdpa", "auto"])
@pytest.mark.parametrize("mask", MASKS)
def test_gradients_are_the_references_and_exactly_zero_where_masked(name, mask):
    lengths = [2, 1, 4]
    q, k, v = (x.double().requires_grad_() for x in draw(2, 2, 7, 8))
    weights = torch.randn(2, 2, 7, 8, dtype=torch.float64)
    got = torch.autograd.grad(
        (attend_by_scale(resolve(name), q, k, v, lengths, mask) * weights).sum(), (q, k, v)
    )
    want = torch.autograd.grad((reference(q, k, v, lengths, mask) * weights).sum(), (q, k, v))
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b)
    coarse = attend_by_scale(resolve(name), q, k, v, lengths, mask)[:, :, :2].square().sum()
    for gradient in torch.autograd.grad(coarse, (k, v)):
        assert bool(gradient[:, :, 2:].any()) == (mask == "none")


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4), mask=st.sampled_from(MASKS))
def test_pairs_are_those_the_mask_allows(lengths, mask):
    assert attention_pairs(lengths, mask) == int(allowed(lengths, mask).sum())


# ---------------------------------------------------------------------- what can run


def test_missing_packages_are_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    for backend, extra in ((Flash(), "flash"), (Xformers(), "xformers")):
        assert f"lapflow[{extra}]" in backend.supports(torch.device("cuda"), torch.bfloat16, 64, True)
        with pytest.raises(BackendError, match=rf"lapflow\[{extra}\]"):
            backend.require(CPU, torch.bfloat16, 64, False)
        with pytest.raises(BackendError):
            backend.attend(*draw(1, 1, 2, 8))


def transposed(calls):
    """A stand-in for a package's function on [b, n, h, d], which notes its arguments' shapes."""

    def function(q, k, v):
        calls.append((q.shape, k.shape, v.shape))
        return SDPA().attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

    return function


def install(monkeypatch, calls):
    flash, package, ops = (
        types.ModuleType("flash_attn"),
        types.ModuleType("xformers"),
        types.ModuleType("xformers.ops"),
    )
    flash.flash_attn_func = transposed(calls)
    ops.memory_efficient_attention = transposed(calls)
    for module in (flash, package, ops):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("cls", [Flash, Xformers])
def test_packages_are_called_with_their_layout(monkeypatch, cls):
    calls = []
    install(monkeypatch, calls)
    q, k, v = draw(2, 3, 9, 8)
    got = attend_by_scale(cls(), q, k, v, [4, 5], "causal")
    assert calls == [((2, 4, 3, 8), (2, 4, 3, 8), (2, 4, 3, 8)), ((2, 5, 3, 8), (2, 9, 3, 8), (2, 9, 3, 8))]
    torch.testing.assert_close(got.double(), reference(q, k, v, [4, 5], "causal"), rtol=1e-4, atol=2e-6)


def test_reasons_name_what_is_missing(monkeypatch):
    install(monkeypatch, [])
    cuda = torch.device("cuda")
    half, single, double = torch.bfloat16, torch.float32, torch.float64
    reasons = [
        (Flash(), (cuda, half, 64, True), None),
        (Flash(), (CPU, half, 64, True), "CUDA"),
        (Flash(), (cuda, single, 64, True), "bfloat16"),
        (Flash(), (cuda, half, 264, True), "256"),
        (Xformers(), (cuda, single, 64, True), None),
        (Xformers(), (CPU, single, 64, False), "CUDA"),
        (Xformers(), (cuda, double, 64, False), "float32"),
        (Xformers(), (cuda, single, 20, False), "multiple of 8"),
        (Flex(), (CPU, single, 8, False), None),
        (Flex(), (CPU, single, 64, True), "gradients"),
        (Flex(), (cuda, half, 64, True), None),
        (Flex(), (cuda, double, 64, True), "float32"),
        (Flex(), (cuda, half, 8, True), "16"),
        (Flex(), (torch.device("mps"), half, 64, False), "CUDA"),
        (SDPA(), (torch.device("mps"), half, 512, True), None),
        (Auto(), (CPU, single, 7, True), None),
    ]
    for backend, case, reason in reasons:
        got = backend.supports(*case)
        assert (got is None) if reason is None else reason in got, (backend, case, got)


def test_auto_takes_the_first_that_can_and_says_so_once(monkeypatch, caplog):
    install(monkeypatch, [])
    auto, cuda = Auto(), torch.device("cuda", 0)
    with caplog.at_level(logging.INFO, logger="lapflow"):
        for _ in range(3):
            assert isinstance(auto.choose(cuda, torch.bfloat16, 64, True), Flash)
            assert isinstance(auto.choose(cuda, torch.float32, 64, True), Xformers)
            assert isinstance(auto.choose(cuda, torch.float32, 20, True), SDPA)
            assert isinstance(auto.choose(CPU, torch.bfloat16, 64, False), SDPA)
    assert [record.getMessage().split(" (")[0].split()[-1] for record in caplog.records] == [
        "Flash",
        "Xformers",
        "SDPA",
        "SDPA",
    ]
    assert "bfloat16, head dimension 64, with gradients" in caplog.records[0].getMessage()


def test_auto_falls_to_the_last(monkeypatch):
    class Nowhere(SDPA):
        def supports(self, device, dtype, head_dim, needs_grad):
            return "elsewhere"

    monkeypatch.setattr(attention, "ORDER", (Nowhere, Flex))
    assert isinstance(Auto().choose(CPU, torch.float32, 8, False), Flex)


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "cls"),
    [("auto", Auto), ("sdpa", SDPA), ("flash", Flash), ("xformers", Xformers), ("flex", Flex)],
)
def test_names(name, cls):
    assert isinstance(resolve(name), cls)


def test_an_instance_passes_through():
    backend = SDPA()
    assert resolve(backend) is backend


def test_a_misspelt_name_shows_the_nearest():
    with pytest.raises(ConfigError, match="'flash'"):
        resolve("flsh")


def test_flex_is_silent_on_cpu(recwarn):
    Flex().attend(*draw(1, 1, 2, 8))
    assert not [w for w in recwarn if "flex_attention" in str(w.message)]


def test_importing_the_packages_imports_nothing_optional():
    heavy = "{'diffusers', 'flash_attn', 'xformers', 'lapflow.plugins.registry'}"
    code = (
        f"import sys, lapflow.backends.attention, lapflow.models; found = {heavy} & set(sys.modules); "
        f"assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
