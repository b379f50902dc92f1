"""Contract: what training minimises; and the default, the weighted mean squared error per scale."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lapflow.core.backbone import Backbone, Condition, Heads
from lapflow.core.component import Component
from lapflow.core.decomposition import Band

if TYPE_CHECKING:
    from lapflow.core.flow import TrainingPoint


class Objective(Component):
    """(heads, training pair) -> named losses. Their sum is minimised; each is logged under its name.

    An objective may have weights of its own, such as a discriminator's. They are trained by the same sum, in
    the same backward pass and by the same optimizer as the network's, so that every engine can carry them: a
    loss that is for one of the two keeps its gradient from the other, by `detach` of what the network
    returned, or by `held` around the use of the module. They are saved with each checkpoint and go on with
    it. The average of weights leaves them out, and sampling does without them.
    """

    kind = "objective"

    heads: tuple[str, ...] = ()
    """The heads beside `main` that it trains."""

    module: nn.Module | None = None
    """The weights of its own, made by `build`; None: it has none."""

    def build(self, bands: Mapping[int, Band], num_classes: int) -> None:
        """Make `module`, for what the network sees (`Flow.views`) and its classes. Called once before
        training, under a seed of the run's."""

    @abstractmethod
    def __call__(self, heads: Heads, point: TrainingPoint) -> Mapping[str, Tensor]:
        """Named scalar losses, each a mean over the point's samples. Draws nothing: the point's `noise` is
        the sample's own."""


@contextmanager
def held(module: nn.Module) -> Iterator[None]:
    """Hold a module's weights fixed in what it computes inside: gradients go through to its inputs, and none
    to its weights.

    The weights stay the tensors that they are, so that an engine which shards or gathers them sees nothing
    unusual.
    """
    held = [p for p in module.parameters() if p.requires_grad]
    for p in held:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in held:
            p.requires_grad_(True)


class Judged(nn.Module):
    """A network and an objective that has weights, as the one module that an engine trains: what engines hook
    is one forward for each backward, so the losses are made inside it."""

    def __init__(self, network: Backbone, objective: Objective) -> None:
        super().__init__()
        assert objective.module is not None, "an objective without weights needs no module around it"
        self.network, self.objective = network, objective.module
        self.judge = objective.__call__

    def forward(
        self, state: Mapping[int, Tensor], t: Tensor, condition: Condition, point: TrainingPoint
    ) -> Mapping[str, Tensor]:
        """The named losses at a training pair."""
        return self.judge(self.network(state, t, condition), point)

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile the network; the objective's branches are its own."""
        self.network.compile(*arguments, **options)


class MSE(Objective):
    """The mean squared error of each active scale's prediction, times the scale's weight (LapFlow, w_k = 1)
    and what the prediction weighs a time with."""

    def __call__(self, heads: Heads, point: TrainingPoint) -> Mapping[str, Tensor]:
        return {
            f"scale{k}": weighted_error(heads["main"][k], target, point.weights[k])
            for k, target in point.target.items()
        }


def weighted_error(output: Tensor, target: Tensor, weight: Tensor | float) -> Tensor:
    """The mean over samples of weight (a number, or [b]) times the mean squared error of a sample."""
    squares = (output.float() - target.float()).square()
    if isinstance(weight, Tensor) and weight.ndim:
        return (weight.float() * squares.flatten(1).mean(1)).mean()
    return weight * squares.mean()
