"""The attention contract: softmax(q k^T / sqrt d) v, wherever the backend says that it runs."""

from __future__ import annotations

import functools
from typing import ClassVar

import torch
from torch import Tensor

from lapflow.core.attention import AttentionBackend, Mask, scale_attention, visible
from lapflow.core.errors import BackendError
from lapflow.plugins.kits.base import Conformance, error_of, normal, relative


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1) @ v


class AttentionConformance(Conformance):
    """Tried on every device at hand, in each dtype and shape (b, h, n, m, d) for which `supports` has no
    objection."""

    kind = "attention"
    tolerances: ClassVar[dict[torch.dtype, float]] = {
        torch.float64: 1e-10,
        torch.float32: 2e-5,
        torch.float16: 4e-3,
        torch.bfloat16: 3e-2,
    }
    shapes: ClassVar[tuple[tuple[int, ...], ...]] = (
        (2, 3, 5, 5, 8),
        (1, 2, 16, 20, 32),
        (2, 1, 7, 1, 64),
        (1, 4, 64, 80, 72),
    )

    def make(self) -> AttentionBackend:
        raise NotImplementedError("override make() to return the attention backend under test")

    def cases(self, needs_grad: bool) -> list[tuple[torch.device, torch.dtype, tuple[int, ...]]]:
        """What this backend says it can run here."""
        devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
        backend = self.make()
        return [
            (device, dtype, shape)
            for device in devices
            for dtype in self.tolerances
            for shape in self.shapes
            if backend.supports(device, dtype, shape[-1], needs_grad) is None
        ]

    @staticmethod
    def tensors(
        device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v as a network has them: views [b, h, n, d] of [b, n, h, d]."""
        b, h, n, m, d = shape
        q, k, v = (
            normal(b, length, h, d, key=key).to(device, dtype)
            for key, length in (("q", n), ("k", m), ("v", m))
        )
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def test_it_equals_softmax_attention(self) -> None:
        """Values, shape and dtype, against the definition in float64."""
        for device, dtype, shape in self.cases(False):
            q, k, v = self.tensors(device, dtype, shape)
            got = self.make().attend(q, k, v)
            assert got.shape == q.shape
            assert got.dtype == dtype
            assert relative(got, softmax_attention(q, k, v)) <= self.tolerances[dtype], (
                f"{device}, {dtype}, {shape}"
            )

    def test_gradients_equal_those_of_softmax_attention(self) -> None:
        """Where `supports` says that it has gradients."""
        for device, dtype, shape in self.cases(True):
            leaves = [x.detach().requires_grad_() for x in self.tensors(device, dtype, shape)]
            wide = [x.detach().double().requires_grad_() for x in leaves]
            weight = normal(*leaves[0].shape, key="w").to(device)
            got = torch.autograd.grad((self.make().attend(*leaves).double() * weight).sum(), leaves)
            want = torch.autograd.grad((softmax_attention(*wide) * weight).sum(), wide)
            # The keys' gradient is a small difference of products, so its bound is in units of the largest
            # gradient.
            scale = max(float(w.abs().max()) for w in want)
            for a, b in zip(got, want):
                assert float((a.double() - b).abs().max()) / scale <= 3 * self.tolerances[dtype], (
                    f"{device}, {dtype}, {shape}"
                )

    def test_scale_masks_as_slices(self) -> None:
        """Under each scale mask, the unmasked calls on strided slices equal masked softmax attention over the
        whole sequence."""
        lengths = (4, 16)
        masks: tuple[Mask, ...] = ("none", "self", "causal")
        for device, dtype, shape in self.cases(False):
            q, k, v = self.tensors(device, dtype, (shape[0], shape[1], sum(lengths), sum(lengths), shape[-1]))
            for mask in masks:
                allowed = torch.zeros(sum(lengths), sum(lengths), dtype=torch.bool, device=device)
                for a, b, c, d in visible(mask, lengths):
                    allowed[a:b, c:d] = True
                scores = (q.double() @ k.double().transpose(-1, -2) / shape[-1] ** 0.5).masked_fill(
                    ~allowed, -torch.inf
                )
                parts = [x.split(lengths, dim=2) for x in (q, k, v)]
                got = torch.cat(scale_attention(self.make(), parts[0], parts[1], parts[2], mask), dim=2)
                assert relative(got, torch.softmax(scores, -1) @ v.double()) <= self.tolerances[dtype], (
                    f"{mask}, {device}, {dtype}"
                )

    def test_what_it_cannot_run_has_a_reason(self) -> None:
        """`supports` gives None or words, and `require` raises a BackendError that carries them."""
        backend = self.make()
        for dtype in self.tolerances:
            for needs_grad in (False, True):
                reason = backend.supports(torch.device("cpu"), dtype, 64, needs_grad)
                if reason is None:
                    backend.require(torch.device("cpu"), dtype, 64, needs_grad)
                else:
                    assert reason.strip()
                    error = error_of(
                        BackendError,
                        functools.partial(backend.require, torch.device("cpu"), dtype, 64, needs_grad),
                    )
                    assert reason in str(error)
