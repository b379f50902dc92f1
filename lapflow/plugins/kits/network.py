"""The kits of a network and of the attention that it calls."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lapflow.core.attention import AttentionBackend, Mask, scale_attention, visible
from lapflow.core.backbone import Backbone, Heads
from lapflow.core.condition import (
    Classes,
    ClassesSpec,
    Condition,
    Part,
    Specs,
    Tokens,
    TokensSpec,
    Vector,
    specs,
)
from lapflow.core.decomposition import Band
from lapflow.core.errors import BackendError, ConfigError
from lapflow.core.state import State, map_state, take_rows
from lapflow.plugins.kits.base import Conformance, equal, error_of, normal, relative


def two_scales(axes: int = 2) -> dict[int, Band]:
    """The bands of a sample with one channel and 8 pixels along each of `axes` axes, in two scales."""
    small = 0.5 ** (axes / 2)
    return {
        1: Band(1, 1, (4,) * axes, small, small),
        0: Band(0, 1, (8,) * axes, (1 - 0.5**axes) ** 0.5, 1.0),
    }


class BackboneConformance(Conformance[Backbone]):
    """Any suffix of the scales, shapes kept, samples apart, every parameter trained, costs stated.

    `bands` and `condition` are the context in which the backbone is made: the parts that it shall embed, or a
    number of classes, 0 for an unconditional one. `timed = False` for a network that works at one time only
    (one step a segment); `own_scale = False` for one that predicts a scale from the coarser ones alone, the
    coarsest from the class.
    """

    kind = "backbone"
    made = ", for self.bands and self.condition"
    bands: ClassVar[Mapping[int, Band]] = two_scales()
    condition: ClassVar[Specs | int] = 3
    batch: ClassVar[int] = 3
    timed: ClassVar[bool] = True
    own_scale: ClassVar[bool] = True

    def network(self) -> Backbone:
        """The backbone in float64, every parameter drawn anew: initial zeros hide what depends on what."""
        model = self.make().double().eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return model

    @property
    def scales(self) -> tuple[int, ...]:
        return tuple(self.bands)

    @property
    def times(self) -> Tensor:
        """A time for each sample, all different."""
        return torch.linspace(0.1, 0.9, self.batch, dtype=torch.float64)

    @property
    def time(self) -> Tensor:
        """The same time for every sample."""
        return torch.full((self.batch,), 0.4, dtype=torch.float64)

    def suffixes(self) -> list[tuple[int, ...]]:
        """Every non-empty set of the coarsest scales, coarse to fine."""
        return [self.scales[:n] for n in range(1, len(self.scales) + 1)]

    def state(self, scales: tuple[int, ...] | None = None, key: object = 0) -> State:
        return {k: normal(self.batch, *self.bands[k].shape, key=(key, k)) for k in scales or self.scales}

    def given(self, batch: int | None = None, key: object = 0) -> Condition:
        """Something for every part, drawn by `key`."""
        return examples(specs(self.condition), self.batch if batch is None else batch, key)

    def predict(self, model: nn.Module, scales: tuple[int, ...], key: object = 0) -> Heads:
        return model(self.state(scales, key), self.times, self.given())

    def test_it_says_what_it_embeds(self) -> None:
        """The parts it was made for; a part of another name is refused."""
        model = self.make()
        assert dict(model.condition) == specs(self.condition)
        other = self.given().beside("another", Vector.of(torch.zeros(self.batch, 2)))
        state = map_state(Tensor.float, self.state())
        assert "another" in str(error_of(ConfigError, lambda: model(state, self.time.float(), other)))

    def test_every_suffix_of_scales_in_and_out(self) -> None:
        """`main` holds the scales that came, coarse to fine, in their shapes; all finite."""
        model = self.network()
        for scales in self.suffixes():
            heads = self.predict(model, scales)
            assert all(list(head) == list(scales) for head in heads.values())
            for k, x in heads["main"].items():
                assert tuple(x.shape) == (self.batch, *self.bands[k].shape)
                assert bool(torch.isfinite(x).all())

    def test_samples_do_not_mix(self) -> None:
        """A sample's prediction does not depend on the others of its batch."""
        model, one = self.network(), slice(1, 2)
        whole = self.predict(model, self.scales)["main"]
        alone = model(take_rows(self.state(), one), self.times[one], self.given().rows(one))["main"]
        for k in self.scales:
            assert (whole[k][one] - alone[k]).abs().max() <= 1e-9 * whole[k].abs().max()

    def test_it_depends_on_time_state_and_what_is_given(self) -> None:
        """A prediction that ignores an argument is wired wrongly, unless the kit's attributes say so."""
        model, state, t, given = self.network(), self.state(), self.time, self.given()
        first = model(state, t, given)["main"]
        later = model(state, t + 0.3, given)["main"]
        other = model(self.state(key="other"), t, given)["main"]
        for k in self.scales:
            read = self.own_scale or k < max(self.scales)
            assert ((first[k] - later[k]).abs().max() > 1e-9) == self.timed, "time"
            assert ((first[k] - other[k]).abs().max() > 1e-9) == read, "state"
        for name in given.parts:
            changed = given.beside(name, self.given(key="changed").parts[name])
            other = model(state, t, changed)["main"]
            assert all((first[k] - other[k]).abs().max() > 1e-9 for k in self.scales), name

    def test_a_scale_depends_on_no_more_than_its_mask_says(self) -> None:
        """`causal`, `self`: finer scales change nothing, there or not; `self`: no other scale does."""
        model, state, t = self.network(), self.state(), self.time
        want = model(state, t, self.given())["main"]
        for j in self.scales if model.mask != "none" else ():
            changed = {**state, **self.state((j,), "other")}
            shorter = {k: x for k, x in state.items() if k >= j}
            for k, x in model(shorter, t, self.given())["main"].items():
                assert (x - want[k]).abs().max() <= 1e-9 * want[k].abs().max(), "without finer scales"
            for k, x in model(changed, t, self.given())["main"].items():
                if k > j or (k < j and model.mask == "self"):
                    assert (x - want[k]).abs().max() <= 1e-9 * want[k].abs().max(), f"scale {j} is read"

    def test_what_is_missing_is_null(self) -> None:
        """None, a Condition without parts and the null of all parts are one."""
        model = self.network()
        first = model(self.state(), self.time, self.given().null())["main"]
        for condition in (None, Condition()):
            assert equal(model(self.state(), self.time, condition)["main"], first)

    def test_it_takes_the_times_that_it_says(self) -> None:
        """A time for each scale (equal ones are the shared one), a second time that matters; or a refusal."""
        model, scales, state, given, t = self.network(), self.scales, self.state(), self.given(), self.time
        first = model(state, t, given)["main"]
        if model.times_per_scale:
            same = model(state, dict.fromkeys(scales, t), given)["main"]
            other = model(state, {k: t + 0.1 * k for k in scales}, given)["main"]
            assert all((first[k] - same[k]).abs().max() <= 1e-12 * first[k].abs().max() for k in scales)
            assert any((first[k] - other[k]).abs().max() > 1e-9 for k in scales)
        else:
            error_of(ConfigError, lambda: model.require_inputs(dict.fromkeys(scales, t), None, ()))
        if model.second_time:
            later = model(state, t, given, t_end=t + 0.2)["main"]
            none = model(state, t, given, t_end=t)["main"]
            assert all((first[k] - later[k]).abs().max() > 1e-9 for k in scales)
            assert all(torch.equal(first[k], none[k]) for k in scales)
        else:
            error_of(ConfigError, lambda: model.require_inputs(t, t, ()))

    def test_hidden_states_are_those_that_it_names(self) -> None:
        """Tokens of each active scale, beside the same heads; an unknown name is refused."""
        model, given = self.network(), (self.state(), self.time, self.given())
        error_of(ConfigError, lambda: model.require_inputs(self.time, None, ("no such state",)))
        if not (names := model.hidden_names()):
            return
        heads, hidden = model(*given, return_hidden=names)
        assert tuple(hidden) == names
        for tokens in hidden.values():
            assert list(tokens) == list(self.scales)
            assert all(x.ndim == 3 and len(x) == self.batch for x in tokens.values())
        assert equal(heads["main"], model(*given)["main"])

    def test_gradients_reach_every_parameter(self) -> None:
        """When all scales are active, everything given and withheld in one batch."""
        model = self.network().train()
        known = specs(self.condition).values()
        largest = max((getattr(s, "count", getattr(s, "vocabulary", 0)) or 0 for s in known), default=0)
        batch = max(self.batch, largest + 1)
        given = self.given(batch).drop(torch.arange(batch) == batch - 1)
        state = {k: normal(batch, *self.bands[k].shape, key=k) for k in self.scales}
        mean_square(model(state, torch.linspace(0.1, 0.9, batch, dtype=torch.float64), given)).backward()
        weights = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        dead = [name for name, p in weights if p.grad is None or not bool(p.grad.any())]
        assert not dead, f"no gradient reaches {dead}"

    def test_units_are_parts_that_may_be_recomputed(self) -> None:
        """They are different modules of the network; recomputing what they do gives the same gradients."""
        model = self.network().train()
        units = model.units()
        assert len({id(unit) for unit in units}) == len(units)
        assert all(any(unit is module for module in model.modules()) for unit in units)
        want = self.gradients(model)
        for unit in units:
            unit.forward = functools.partial(checkpoint, unit.forward, use_reentrant=False)
        got = self.gradients(model)
        assert got.keys() == want.keys()
        assert equal(got, want)

    def gradients(self, model: Backbone) -> dict[str, Tensor]:
        """Of the mean square of all predictions, by the parameter's name."""
        model.zero_grad()
        mean_square(model(self.state(), self.time, self.given())).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def test_it_runs_in_training_and_in_low_precision(self) -> None:
        """A bfloat16 network gives bfloat16 predictions."""
        model, state = self.make().to(torch.bfloat16), map_state(Tensor.bfloat16, self.state())
        for x in model(state, self.time.float(), self.given())["main"].values():
            assert x.dtype == torch.bfloat16
            assert bool(torch.isfinite(x).all())

    def test_weights_round_trip(self) -> None:
        """The state dict is the whole model: loaded into a new one it gives the same predictions."""
        first, second = self.network(), self.make().double().eval()
        second.load_state_dict(first.state_dict())
        for scales in self.suffixes():
            assert equal(self.predict(second, scales)["main"], self.predict(first, scales)["main"])

    def test_multiply_adds(self) -> None:
        """Positive in total, whole numbers, and growing with the active scales."""
        model, previous = self.make(), 0
        for scales in self.suffixes():
            parts = model.multiply_adds(scales)
            assert all(isinstance(n, int) and n >= 0 for n in parts.values())
            assert sum(parts.values()) > previous
            previous = sum(parts.values())


def mean_square(heads: Heads) -> Tensor:
    """The sum of the mean squares of all predictions."""
    return torch.stack([x.square().mean() for head in heads.values() for x in head.values()]).sum()


def examples(known: Specs, batch: int, key: object = 0) -> Condition:
    """Something of every part that is known, for `batch` samples: classes and ids in turn from one that `key`
    names, so that no sample keeps its own with another key; numbers and embeddings normal."""
    shift = 0 if key == 0 else 1
    parts: dict[str, Part] = {}
    for name, spec in known.items():
        if isinstance(spec, ClassesSpec):
            parts[name] = Classes((torch.arange(batch) + shift) % spec.count)
        elif not isinstance(spec, TokensSpec):
            parts[name] = Vector.of(normal(batch, spec.size, key=(key, name)))
        elif spec.vocabulary is None:
            parts[name] = Tokens.of(normal(batch, spec.length, spec.width or 0, key=(key, name)))
        else:
            ids = torch.arange(batch)[:, None] + torch.arange(spec.length) + shift
            parts[name] = Tokens.of(ids % spec.vocabulary)
    return Condition(parts)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt d) v over the `allowed` pairs [n, m], in float64: the definition."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v


class AttentionConformance(Conformance[AttentionBackend]):
    """softmax(q k^T / sqrt d) v on each device, in each dtype and shape (b, h, n, m, d) it `supports`."""

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

    def cases(self, needs_grad: bool) -> list[tuple[torch.device, torch.dtype, tuple[int, ...]]]:
        """What this backend says it can run here."""
        devices = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]
        backend = self.make()
        return [
            (device, dtype, shape)
            for device, dtype, shape in itertools.product(devices, self.tolerances, self.shapes)
            if backend.supports(device, dtype, shape[-1], needs_grad) is None
        ]

    @staticmethod
    def tensors(
        device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v as a network has them: views [b, h, n, d] of [b, n, h, d]."""
        b, h, n, m, d = shape
        q, k, v = (
            normal(b, length, h, d, key=key).to(device, dtype).transpose(1, 2)
            for key, length in (("q", n), ("k", m), ("v", m))
        )
        return q, k, v

    def test_it_equals_softmax_attention(self) -> None:
        """Values, shape and dtype, against the definition in float64."""
        for device, dtype, shape in self.cases(False):
            q, k, v = self.tensors(device, dtype, shape)
            got, case = self.make().attend(q, k, v), f"{device}, {dtype}, {shape}"
            assert got.shape == q.shape
            assert got.dtype == dtype
            assert relative(got, softmax_attention(q, k, v)) <= self.tolerances[dtype], case

    def test_gradients_equal_those_of_softmax_attention(self) -> None:
        """Where `supports` says that it has gradients."""
        for device, dtype, shape in self.cases(True):
            leaves = [x.detach().requires_grad_() for x in self.tensors(device, dtype, shape)]
            wide = [x.detach().double().requires_grad_() for x in leaves]
            weight = normal(*leaves[0].shape, key="w").to(device)
            got = torch.autograd.grad((self.make().attend(*leaves).double() * weight).sum(), leaves)
            want = torch.autograd.grad((softmax_attention(*wide) * weight).sum(), wide)
            # The keys' gradient is a small difference of products: the bound is in units of the largest.
            bound = 3 * self.tolerances[dtype] * max(float(w.abs().max()) for w in want)
            errors = [float((a.double() - b).abs().max()) for a, b in zip(got, want)]
            assert all(error <= bound for error in errors), f"{device}, {dtype}, {shape}"

    def test_scale_masks_as_slices(self) -> None:
        """Under each scale mask, unmasked calls on strided slices equal masked softmax attention over all."""
        lengths, masks = (4, 16), get_args(Mask)
        for device, dtype, shape in self.cases(False):
            q, k, v = self.tensors(device, dtype, (shape[0], shape[1], sum(lengths), sum(lengths), shape[-1]))
            parts = [x.split(lengths, dim=2) for x in (q, k, v)]
            for mask in masks:
                allowed = torch.zeros(sum(lengths), sum(lengths), dtype=torch.bool, device=device)
                for a, b, c, d in visible(mask, lengths):
                    allowed[a:b, c:d] = True
                got = torch.cat(scale_attention(self.make(), parts[0], parts[1], parts[2], mask), dim=2)
                error = relative(got, softmax_attention(q, k, v, allowed))
                assert error <= self.tolerances[dtype], f"{mask}, {device}, {dtype}"

    def test_what_it_cannot_run_has_a_reason(self) -> None:
        """`supports` gives None or words, and `require` raises a BackendError that carries them."""
        backend = self.make()
        for dtype, needs_grad in itertools.product(self.tolerances, (False, True)):
            case = (torch.device("cpu"), dtype, 64, needs_grad)
            reason = backend.supports(*case)
            if reason is None:
                backend.require(*case)
            else:
                assert reason.strip()
                assert reason in str(error_of(BackendError, functools.partial(backend.require, *case)))
