"""Contract: the network that predicts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from lapflow.core.attention import Mask
from lapflow.core.component import Component
from lapflow.core.condition import IMAGE, Condition, Image, Specs, class_rows, num_classes, refuse_unknown
from lapflow.core.decomposition import Band
from lapflow.core.errors import ConfigError, suggest
from lapflow.core.state import State, StateView, Times

Heads = dict[str, State]

Hidden = dict[str, State]
"""Hidden states by name: {k: tokens [b, n_k, d]}."""

MAIN = "main"
"""The head that every network has: what the flow's prediction states."""

VARIANCE = "variance"
"""The head in which a network returns the learned range of a step's variance."""


class Backbone(nn.Module, Component):
    """A network over the active scales of a state.

    Context: `bands` ({k: Band}, coarse to fine), `condition` (the specs of the parts that it embeds, by name;
    a number stands for so many classes, 0 for nothing), `attention` (a backend or its name)."""

    kind = "backbone"
    context = ("bands", "condition", "attention")
    bands: Mapping[int, Band]
    """What it was made for, {k: Band}, coarse to fine."""

    condition: Specs = MappingProxyType({})
    """The parts that it embeds. It refuses others by name."""

    heads: tuple[str, ...] = ()
    """The heads beside `main` that `forward` returns."""

    guided: tuple[str, ...] = (MAIN,)
    """The heads that guidance combines; the others are those of the condition asked for."""

    mask: Mask = "none"
    """Which scales the output of a scale depends on, as `Field.mask`; `none` is always safe."""

    times_per_scale: bool = False
    """Whether `forward` takes a time for each scale."""

    second_time: bool = False
    """Whether `forward` takes `t_end`, the end of the step that is predicted (flow maps)."""

    def hidden_names(self) -> tuple[str, ...]:
        """The hidden states that `forward` can return, in the order in which they are computed."""
        return ()

    def fit(self, examples: Callable[[int], State]) -> None:
        """Set from training data what is not trained, such as codebooks or statistics: called once before the
        first step of a run, and not when one goes on, since the state dict holds it. `examples(n)` gives the
        first n training samples of the run as the network sees them without noise, {k: [n, c_k, *sizes_k]}
        for every scale (or all there are). A pure function of these: every process calls it."""

    @abstractmethod
    def forward(
        self,
        state: StateView,
        t: Times,
        condition: Condition | Tensor | None = None,
        *,
        t_end: Times | None = None,
        return_hidden: Sequence[str] = (),
    ) -> Any:
        """state {k: [b, c_k, *sizes_k]} with any non-empty suffix of the scales coarse to fine (or one alone,
        a merged image), t [b] the path's model time, in [0, 1] for most -> {"main": {k: [b, c_k, *sizes_k]}}
        for the same scales, and the `heads`. What it embeds and is not given is taken as null.

        `t` may be {k: [b]} if the network has `times_per_scale`. `t_end`, like `t`, is the time at which the
        predicted step ends, if it has a `second_time`; None: `t`, a step of no length. With `return_hidden`,
        some of `hidden_names()`, the result is (heads, {name: {k: tokens [b, n_k, d]}}). A network that
        states none of these need not have the keywords: they are not given to it then. Raises `ConfigError`
        for what the network does not take (`require_inputs`)."""

    def prepare(self, condition: Condition) -> Condition:
        """The same condition, with what does not depend on state and time computed once, for all evaluations
        of a sampling: `forward` takes it in the place of the condition, with the same result."""
        return condition

    def require_inputs(self, t: Times, t_end: Times | None, return_hidden: Sequence[str]) -> None:
        """Raises `ConfigError` unless the network takes such times and has these hidden states."""
        name = type(self).__name__
        if not self.times_per_scale and not (isinstance(t, Tensor) and isinstance(t_end, Tensor | None)):
            raise ConfigError(
                f"{name} takes one time for all scales", got="a time for each", expected="t of shape [b]"
            )
        if t_end is not None and not self.second_time:
            raise ConfigError(
                f"{name} takes no second time",
                got="t_end",
                expected="a network that has one, for instance mot-dit with second_time: true",
            )
        for wanted in return_hidden:
            if wanted not in (known := self.hidden_names()):
                raise ConfigError(
                    f"{name} has no hidden state {wanted!r}",
                    got=wanted,
                    expected=suggest(wanted, known) if known else "none: it gives no hidden states",
                )

    def require(self, device: torch.device, dtype: torch.dtype, needs_grad: bool) -> str | None:
        """The attention kernel that runs there, by name; None for a network without one. Raises
        `BackendError` if none can: asked before work starts."""
        return None

    def units(self) -> Sequence[nn.Module]:
        """The repeated parts, each called as a whole in every evaluation, that hold most of the weights and
        activations: an engine may shard them one by one, and training may recompute them in the backward
        pass. None: the network is one piece."""
        return ()

    def multiply_adds(self, scales: Iterable[int]) -> dict[str, int]:
        """Multiply-adds of one evaluation of one sample with these active scales, by part: `linear`
        (token-wise layers, convolutions), `attention` (both products over the pairs seen), `modulation` (per
        sample). By default the matrix products and convolutions of a call on the meta device, with nothing
        given but the coarser image: for a network that has `bands` and whose attention is torch's."""
        from torch.func import functional_call
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode

        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            weights = {name: torch.empty_like(x, device="meta") for name, x in self.state_dict().items()}
            state = {k: torch.empty(1, *self.bands[k].shape, device="meta") for k in scales}
            beside = {
                k: torch.empty(1, self.bands[k].condition, *self.bands[k].sizes, device="meta")
                for k in state
                if self.bands[k].condition
            }
            t = torch.empty(1, device="meta")
            given = Condition({IMAGE: Image(beside, t)} if beside else {})
            functional_call(self, weights, (state, t, given))
        counts = {str(name): count // 2 for name, count in counter.get_flop_counts()["Global"].items()}
        attention = sum(count for name, count in counts.items() if "bmm" in name)
        return {"linear": sum(counts.values()) - attention, "attention": attention}

    def known(self, condition: Condition | Tensor | None) -> Condition:
        """What is given, as a `Condition`. Raises `ConfigError` for a part that the network does not
        embed."""
        given = Condition.of(condition)
        refuse_unknown(given, self.condition)
        return given

    def class_rows(self, given: Condition, like: Tensor) -> Tensor:
        """The row [b] of each sample in a table of `num_classes` + 1 rows, the last for no class. `like`
        [b, ...] gives batch size and device."""
        return class_rows(given.labels, num_classes(self.condition), like)

    def coarser(self, given: Condition, scale: int) -> Image | None:
        """In a cascade the coarser image beside the state of `scale`; None at the coarsest. Raises
        `ConfigError` where it is missing."""
        if not self.bands[scale].condition:
            return None
        if given.image is None:
            raise ConfigError(
                f"the network of scale {scale} takes the coarser image beside it",
                got="no image",
                expected="a condition with an image: the bridge condition gives one",
            )
        return given.image
