"""Contract: the network that predicts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lapflow.core.attention import Mask
from lapflow.core.component import Component
from lapflow.core.state import State, take_rows

Heads = dict[str, State]

MAIN = "main"
"""The head that every network has: what the flow's prediction states."""

VARIANCE = "variance"
"""The head in which a network returns the learned range of a step's variance."""


@dataclass(frozen=True)
class Condition:
    """What a prediction is conditioned on: class `labels` [b] (int64; the null class is `num_classes`), and
    in a cascade the coarser `image` {k: [b, c, *sizes_k]} beside the state's scale k, corrupted at `level`
    [b]."""

    labels: Tensor | None = None
    image: Mapping[int, Tensor] | None = None
    level: Tensor | None = None

    @staticmethod
    def of(condition: Condition | Tensor | None) -> Condition:
        """A bare tensor stands for class labels, None for no condition."""
        return condition if isinstance(condition, Condition) else Condition(labels=condition)

    def rows(self, index: Tensor | slice) -> Condition:
        """What is given beside the samples `index` of the batch."""

        def take(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[index]

        image = None if self.image is None else take_rows(self.image, index)
        return Condition(take(self.labels), image, take(self.level))


class Backbone(nn.Module, Component):
    """A network over the active scales of a state.

    Context: `bands` ({k: Band}, coarse to fine), `num_classes` (0: unconditional), `attention` (a backend or
    its name).
    """

    kind = "backbone"
    context = ("bands", "num_classes", "attention")
    num_classes: int

    heads: tuple[str, ...] = ()
    """The heads beside `main` that `forward` returns."""

    guided: tuple[str, ...] = (MAIN,)
    """The heads that guidance combines; the others are those of the condition asked for."""

    mask: Mask = "none"
    """Which scales the output of a scale depends on, as `Field.mask`; `none` is always safe."""

    remakes: bool = False
    """Whether its units take part in `training.activation_checkpointing=cheap`: they compute norms and
    activation functions by `remade`."""

    def fit(self, examples: Callable[[int], State]) -> None:
        """Set from training data what is not trained, such as codebooks or statistics: called once before the
        first step of a run, and not when one goes on, since the state dict holds it. `examples(n)` gives the
        first n training samples of the run as the network sees them without noise, {k: [n, c_k, *sizes_k]}
        for every scale (all samples, if there are fewer). A pure function of these: every process calls
        it."""

    @abstractmethod
    def forward(
        self, state: Mapping[int, Tensor], t: Tensor, condition: Condition | Tensor | None = None
    ) -> Heads:
        """state {k: [b, c_k, *sizes_k]} with any non-empty suffix of the scales coarse to fine (or one alone,
        a merged image), t [b] the path's model time, in [0, 1] for most -> {"main": {k: [b, c_k, *sizes_k]}}
        for the same scales, and the `heads`. Without labels a conditional network takes the null class."""

    def require(self, device: torch.device, dtype: torch.dtype, needs_grad: bool) -> str | None:
        """The attention kernel that runs there, by name; None for a network without one. Raises
        `BackendError` if none can: asked before work starts."""
        return None

    def units(self) -> Sequence[nn.Module]:
        """The repeated parts, each called as a whole in every evaluation, that hold most of the weights and
        activations: an engine may shard them one by one, and training may recompute them in the backward
        pass. None: the network is one piece."""
        return ()

    @abstractmethod
    def multiply_adds(self, scales: Iterable[int]) -> dict[str, int]:
        """Multiply-adds of one evaluation of one sample with these active scales, by part: `linear`
        (token-wise layers), `attention` (both products over the pairs seen), `modulation` (per sample).
        Embeddings of t and y are left out."""
