"""Contract: what training minimises."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from lapflow.core.backbone import Backbone
from lapflow.core.component import Component
from lapflow.core.decomposition import Band
from lapflow.core.features import FeatureExtractor
from lapflow.flows.flow import Flow, TrainingPoint


class Objective(Component):
    """(network, training pair) -> named losses. Their sum is minimised; each is logged under its name.

    It calls the network itself, `network(point.state, point.t, point.condition)`, as often as it needs: all
    calls of a step are inside the one module that an engine wraps (`lapflow.training.step.TrainingStep`).

    An objective may have weights of its own, such as a discriminator's. They are trained by the same sum, in
    the same backward pass and by the same optimizer as the network's, so that every engine can carry them: a
    loss that is for one of the two keeps its gradient from the other, by `detach` of what the network
    returned, or by `frozen` around the use of the module. They are saved with each checkpoint and go on with
    it. The average of weights leaves them out, and sampling does without them.
    """

    kind = "objective"

    heads: tuple[str, ...] = ()
    """The heads beside `main` that it trains."""

    second_time: bool = False
    """Whether it gives the network a second time, `t_end`."""

    hidden: tuple[str, ...] = ()
    """The hidden states that it asks the network for (`return_hidden`)."""

    frozen: dict[str, nn.Module | FeatureExtractor]
    """What it uses and does not train, by name, put there by `build`: a teacher (`lapflow.load(path).model`,
    of a run or an exported folder), a feature extractor. Moved to the engine's device; outside optimizer,
    average and checkpoint, which names it by its weights' SHA-256: no run goes on with another."""

    module: nn.Module | None = None
    """The weights of its own, made by `build`; None: it has none."""

    flow: Flow
    """The composition that it is trained in, from `build` on."""

    def build(self, flow: Flow, bands: Mapping[int, Band], num_classes: int) -> None:
        """Take the flow, and make `module` for what the network sees (`bands`: `flow.network_bands` of the
        data's shape) and its classes. Called once before training, under a seed of the run's. Override it
        with `super().build(...)` first."""
        self.flow, self.frozen = flow, {}

    @abstractmethod
    def __call__(self, network: Backbone, point: TrainingPoint) -> Mapping[str, Tensor]:
        """Named scalar losses, means over the point's samples. Draws nothing: `noise` is the sample's own."""


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Hold a module's weights fixed in what it computes inside: gradients reach its inputs, not its weights.

    The weights stay the same tensors, so that an engine which shards them sees nothing unusual.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
