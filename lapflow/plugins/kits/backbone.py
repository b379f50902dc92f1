"""The backbone contract: any suffix of the scales, shapes kept, samples apart, every parameter trained, costs
stated."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lapflow.core.backbone import Backbone, Condition, Heads
from lapflow.core.decomposition import Band
from lapflow.core.state import State
from lapflow.plugins.kits.base import Conformance, normal

BANDS = {1: Band(1, 1, 4, 4, 0.5, 0.5), 0: Band(0, 1, 8, 8, 0.75**0.5, 1.0)}
"""The bands of an 8x8 image with one channel in two scales."""


class BackboneConformance(Conformance):
    """`bands` and `num_classes` are the context in which the backbone is made; zero classes means
    unconditional.

    `timed = False` for a network that works at one time only (one step a segment); `own_scale = False` for
    one that predicts a scale from the coarser ones alone, the coarsest from the class.
    """

    kind = "backbone"
    bands: ClassVar[Mapping[int, Band]] = BANDS
    num_classes: ClassVar[int] = 3
    batch: ClassVar[int] = 3
    timed: ClassVar[bool] = True
    own_scale: ClassVar[bool] = True

    def make(self) -> Backbone:
        raise NotImplementedError(
            "override make() to return the backbone under test, made for self.bands and self.num_classes"
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

    def labels(self) -> Tensor | None:
        return torch.arange(self.batch) % self.num_classes if self.num_classes else None

    def predict(self, model: nn.Module, scales: tuple[int, ...], key: object = 0) -> Heads:
        heads: Heads = model(
            self.state(scales, key),
            torch.linspace(0.1, 0.9, self.batch, dtype=torch.float64),
            Condition(self.labels()),
        )
        return heads

    def test_it_keeps_num_classes(self) -> None:
        """The null class is `num_classes`, which a sampler reads."""
        assert self.make().num_classes == self.num_classes

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
        model, scales, labels = self.network(), tuple(self.bands), self.labels()
        t = torch.linspace(0.1, 0.9, self.batch, dtype=torch.float64)
        whole = self.predict(model, scales)["main"]
        alone = model(
            {k: x[1:2] for k, x in self.state(scales).items()},
            t[1:2],
            None if labels is None else labels[1:2],
        )["main"]
        for k in scales:
            assert (whole[k][1:2] - alone[k]).abs().max() <= 1e-9 * whole[k].abs().max()

    def test_it_depends_on_time_state_and_class(self) -> None:
        """A prediction that ignores one of its arguments is a mistake in wiring, unless the kit's attributes
        say so."""
        model, scales = self.network(), tuple(self.bands)
        t, labels = torch.full((self.batch,), 0.4, dtype=torch.float64), self.labels()
        first = model(self.state(scales), t, labels)["main"]
        later, other = (
            model(self.state(scales), t + 0.3, labels)["main"],
            model(self.state(scales, "other"), t, labels)["main"],
        )
        for k in scales:
            assert ((first[k] - later[k]).abs().max() > 1e-9) == self.timed, "time"
            assert ((first[k] - other[k]).abs().max() > 1e-9) == (self.own_scale or k < max(scales)), "state"
        if labels is not None:
            relabelled = model(self.state(scales), t, (labels + 1) % (self.num_classes + 1))["main"]
            assert all((first[k] - relabelled[k]).abs().max() > 1e-9 for k in scales), "class"

    def test_without_labels_it_takes_the_null_class(self) -> None:
        """None, a Condition without labels and the null class are one."""
        model, scales = self.network(), tuple(self.bands)
        t = torch.full((self.batch,), 0.4, dtype=torch.float64)
        null = torch.full((self.batch,), self.num_classes) if self.num_classes else None
        first = model(self.state(scales), t, null)["main"]
        for condition in (None, Condition()):
            other = model(self.state(scales), t, condition)["main"]
            assert all(torch.equal(first[k], other[k]) for k in scales)

    def test_gradients_reach_every_parameter(self) -> None:
        """When all scales are active, labels given and withheld in one batch."""
        model, scales = self.network().train(), tuple(self.bands)
        labels = None if not self.num_classes else torch.arange(self.num_classes + 1)
        batch = self.batch if labels is None else len(labels)
        state = {k: normal(batch, *self.bands[k].shape, key=k) for k in scales}
        heads = model(state, torch.linspace(0.1, 0.9, batch, dtype=torch.float64), labels)
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
        heads = model(self.state(tuple(self.bands)), t, self.labels())
        torch.stack([x.square().mean() for head in heads.values() for x in head.values()]).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def test_it_runs_in_training_and_in_low_precision(self) -> None:
        """A bfloat16 network gives bfloat16 predictions."""
        model, scales = self.make().to(torch.bfloat16), tuple(self.bands)
        state = {k: x.to(torch.bfloat16) for k, x in self.state(scales).items()}
        for x in model(state, torch.full((self.batch,), 0.4), self.labels())["main"].values():
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
