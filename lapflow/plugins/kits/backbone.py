"""The backbone contract: any suffix of the scales, shapes kept, samples apart, every parameter trained, costs
stated."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
from lapflow.core.errors import ConfigError
from lapflow.core.state import State
from lapflow.plugins.kits.base import Conformance, error_of, normal


def two_scales(axes: int = 2) -> dict[int, Band]:
    """The bands of a sample with one channel and 8 pixels along each of `axes` axes, in two scales."""
    small = 0.5 ** (axes / 2)
    return {
        1: Band(1, 1, (4,) * axes, small, small),
        0: Band(0, 1, (8,) * axes, (1 - 0.5**axes) ** 0.5, 1.0),
    }


class BackboneConformance(Conformance):
    """`bands` and `condition` are the context in which the backbone is made: the parts that it shall embed,
    or a number of classes, 0 for an unconditional one.

    `timed = False` for a network that works at one time only (one step a segment); `own_scale = False` for
    one that predicts a scale from the coarser ones alone, the coarsest from the class.
    """

    kind = "backbone"
    bands: ClassVar[Mapping[int, Band]] = two_scales()
    condition: ClassVar[Specs | int] = 3
    batch: ClassVar[int] = 3
    timed: ClassVar[bool] = True
    own_scale: ClassVar[bool] = True

    def make(self) -> Backbone:
        raise NotImplementedError(
            "override make() to return the backbone under test, made for self.bands and self.condition"
        )

    def network(self) -> Backbone:
        """The backbone in float64 with every parameter drawn anew: zero-initialised ones would hide what
        depends on what."""
        model = self.make().double().eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return model

    def suffixes(self) -> list[tuple[int, ...]]:
        """Every non-empty set of the coarsest scales, coarse to fine."""
        scales = tuple(self.bands)
        return [scales[:n] for n in range(1, len(scales) + 1)]

    def state(self, scales: tuple[int, ...], key: object = 0) -> State:
        return {k: normal(self.batch, *self.bands[k].shape, key=(key, k)) for k in scales}

    def given(self, batch: int | None = None, key: object = 0) -> Condition:
        """Something for every part, drawn by `key`."""
        return examples(specs(self.condition), self.batch if batch is None else batch, key)

    def predict(self, model: nn.Module, scales: tuple[int, ...], key: object = 0) -> Heads:
        heads: Heads = model(
            self.state(scales, key),
            torch.linspace(0.1, 0.9, self.batch, dtype=torch.float64),
            self.given(),
        )
        return heads

    def test_it_says_what_it_embeds(self) -> None:
        """The parts it was made for; a part of another name is refused."""
        model, t = self.make(), torch.full((self.batch,), 0.4)
        assert dict(model.condition) == specs(self.condition)
        other = self.given().beside("another", Vector.of(torch.zeros(self.batch, 2)))
        state = {k: x.float() for k, x in self.state(tuple(self.bands)).items()}
        assert "another" in str(error_of(ConfigError, lambda: model(state, t, other)))

    def test_every_suffix_of_scales_in_and_out(self) -> None:
        """`main` holds the scales that came, coarse to fine, in their shapes; all finite."""
        model = self.network()
        for scales in self.suffixes():
            for head in self.predict(model, scales).values():
                assert list(head) == list(scales)
            for k, x in self.predict(model, scales)["main"].items():
                assert tuple(x.shape) == (self.batch, *self.bands[k].shape)
                assert bool(torch.isfinite(x).all())

    def test_samples_do_not_mix(self) -> None:
        """A sample's prediction does not depend on the others of its batch."""
        model, scales, given = self.network(), tuple(self.bands), self.given()
        t = torch.linspace(0.1, 0.9, self.batch, dtype=torch.float64)
        whole = self.predict(model, scales)["main"]
        alone = model(
            {k: x[1:2] for k, x in self.state(scales).items()},
            t[1:2],
            given.rows(slice(1, 2)),
        )["main"]
        for k in scales:
            assert (whole[k][1:2] - alone[k]).abs().max() <= 1e-9 * whole[k].abs().max()

    def test_it_depends_on_time_state_and_what_is_given(self) -> None:
        """A prediction that ignores one of its arguments is a mistake in wiring, unless the kit's attributes
        say so."""
        model, scales = self.network(), tuple(self.bands)
        t, given = torch.full((self.batch,), 0.4, dtype=torch.float64), self.given()
        first = model(self.state(scales), t, given)["main"]
        later, other = (
            model(self.state(scales), t + 0.3, given)["main"],
            model(self.state(scales, "other"), t, given)["main"],
        )
        for k in scales:
            assert ((first[k] - later[k]).abs().max() > 1e-9) == self.timed, "time"
            assert ((first[k] - other[k]).abs().max() > 1e-9) == (self.own_scale or k < max(scales)), "state"
        for name in given.parts:
            changed = given.beside(name, self.given(key="changed").parts[name])
            other = model(self.state(scales), t, changed)["main"]
            assert all((first[k] - other[k]).abs().max() > 1e-9 for k in scales), name

    def test_a_scale_depends_on_no_more_than_its_mask_says(self) -> None:
        """Under `causal` and `self` the finer scales change nothing, whether they are there or not; under
        `self` no other scale does."""
        model, scales = self.network(), tuple(self.bands)
        t, state = torch.full((self.batch,), 0.4, dtype=torch.float64), self.state(scales)
        want = model(state, t, self.given())["main"]
        for j in scales if model.mask != "none" else ():
            changed = {**state, j: self.state((j,), "other")[j]}
            shorter = {k: x for k, x in state.items() if k >= j}
            for k, x in model(shorter, t, self.given())["main"].items():
                assert (x - want[k]).abs().max() <= 1e-9 * want[k].abs().max(), "without finer scales"
            for k, x in model(changed, t, self.given())["main"].items():
                if k > j or (k < j and model.mask == "self"):
                    assert (x - want[k]).abs().max() <= 1e-9 * want[k].abs().max(), f"scale {j} is read"

    def test_what_is_missing_is_null(self) -> None:
        """None, a Condition without parts and the null of all parts are one."""
        model, scales = self.network(), tuple(self.bands)
        t = torch.full((self.batch,), 0.4, dtype=torch.float64)
        first = model(self.state(scales), t, self.given().null())["main"]
        for condition in (None, Condition()):
            other = model(self.state(scales), t, condition)["main"]
            assert all(torch.equal(first[k], other[k]) for k in scales)

    def test_it_takes_the_times_that_it_says(self) -> None:
        """A time for each scale, equal ones as the shared one and others not; a second time that matters; or
        it refuses them."""
        model, scales = self.network(), tuple(self.bands)
        state, labels = self.state(scales), self.given()
        t = torch.full((self.batch,), 0.4, dtype=torch.float64)
        first = model(state, t, labels)["main"]
        if model.times_per_scale:
            same = model(state, dict.fromkeys(scales, t), labels)["main"]
            other = model(state, {k: t + 0.1 * k for k in scales}, labels)["main"]
            assert all((first[k] - same[k]).abs().max() <= 1e-12 * first[k].abs().max() for k in scales)
            assert any((first[k] - other[k]).abs().max() > 1e-9 for k in scales)
        else:
            error_of(ConfigError, lambda: model.require_inputs(dict.fromkeys(scales, t), None, ()))
        if model.second_time:
            later = model(state, t, labels, t_end=t + 0.2)["main"]
            none = model(state, t, labels, t_end=t)["main"]
            assert all((first[k] - later[k]).abs().max() > 1e-9 for k in scales)
            assert all(torch.equal(first[k], none[k]) for k in scales)
        else:
            error_of(ConfigError, lambda: model.require_inputs(t, t, ()))

    def test_hidden_states_are_those_that_it_names(self) -> None:
        """Tokens of each active scale, beside the same heads; an unknown name is refused."""
        model, scales = self.network(), tuple(self.bands)
        given = self.state(scales), torch.full((self.batch,), 0.4, dtype=torch.float64), self.given()
        error_of(ConfigError, lambda: model.require_inputs(given[1], None, ("no such state",)))
        if not (names := model.hidden_names()):
            return
        heads, hidden = model(*given, return_hidden=names)
        assert tuple(hidden) == names
        assert all(list(tokens) == list(scales) for tokens in hidden.values())
        assert all(
            x.ndim == 3 and len(x) == self.batch for tokens in hidden.values() for x in tokens.values()
        )
        assert all(torch.equal(heads["main"][k], x) for k, x in model(*given)["main"].items())

    def test_gradients_reach_every_parameter(self) -> None:
        """When all scales are active, everything given and withheld in one batch."""
        model, scales = self.network().train(), tuple(self.bands)
        largest = max(
            (
                getattr(spec, "count", getattr(spec, "vocabulary", 0)) or 0
                for spec in specs(self.condition).values()
            ),
            default=0,
        )
        batch = max(self.batch, largest + 1)
        given = self.given(batch).drop(torch.arange(batch) == batch - 1)
        state = {k: normal(batch, *self.bands[k].shape, key=k) for k in scales}
        heads = model(state, torch.linspace(0.1, 0.9, batch, dtype=torch.float64), given)
        torch.stack([x.square().mean() for head in heads.values() for x in head.values()]).sum().backward()
        dead = [
            name
            for name, p in model.named_parameters()
            if p.requires_grad and (p.grad is None or not bool(p.grad.any()))
        ]
        assert not dead, f"no gradient reaches {dead}"

    def test_units_are_parts_that_may_be_recomputed(self) -> None:
        """They are different modules of the network, and recomputing their activations gives the same
        gradients."""
        model = self.network().train()
        units = model.units()
        assert len({id(unit) for unit in units}) == len(units)
        assert all(any(unit is module for module in model.modules()) for unit in units)
        want = self.gradients(model)
        for unit in units:
            unit.forward = functools.partial(checkpoint, unit.forward, use_reentrant=False)
        got = self.gradients(model)
        assert got.keys() == want.keys()
        assert all(torch.equal(got[name], want[name]) for name in want)

    def gradients(self, model: Backbone) -> dict[str, Tensor]:
        """Of the mean square of all predictions, by the parameter's name."""
        model.zero_grad()
        t = torch.full((self.batch,), 0.4, dtype=torch.float64)
        heads = model(self.state(tuple(self.bands)), t, self.given())
        torch.stack([x.square().mean() for head in heads.values() for x in head.values()]).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def test_it_runs_in_training_and_in_low_precision(self) -> None:
        """A bfloat16 network gives bfloat16 predictions."""
        model, scales = self.make().to(torch.bfloat16), tuple(self.bands)
        state = {k: x.to(torch.bfloat16) for k, x in self.state(scales).items()}
        for x in model(state, torch.full((self.batch,), 0.4), self.given())["main"].values():
            assert x.dtype == torch.bfloat16
            assert bool(torch.isfinite(x).all())

    def test_weights_round_trip(self) -> None:
        """The state dict is the whole model: loaded into a new one it gives the same predictions."""
        first, second = self.network(), self.make().double().eval()
        second.load_state_dict(first.state_dict())
        for scales in self.suffixes():
            got, want = self.predict(second, scales)["main"], self.predict(first, scales)["main"]
            assert all(torch.equal(got[k], want[k]) for k in scales)

    def test_multiply_adds(self) -> None:
        """Positive in total, whole numbers, and growing with the active scales."""
        model, previous = self.make(), 0
        for scales in self.suffixes():
            parts = model.multiply_adds(scales)
            assert all(isinstance(n, int) and n >= 0 for n in parts.values())
            assert sum(parts.values()) > previous
            previous = sum(parts.values())


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
