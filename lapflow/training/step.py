"""The one module that every engine wraps: the network, the objective's weights, and the losses of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lapflow.core.backbone import Backbone
from lapflow.core.objective import Objective
from lapflow.flows.flow import TrainingPoint

MODEL = "model"
OBJECTIVE = "objective"
"""The groups of tensors in a checkpoint."""

Groups = dict[str, dict[str, Tensor]]


class TrainingStep(nn.Module):
    """[training pair, ...] -> [named losses, ...]: everything of a micro-batch in one forward.

    What wraps a network to reduce its gradients (DDP, FSDP2, ZeRO) hooks one forward for each backward, and a
    step calls the network once or more in each of its segments. `objective` is one that was built.

    In a checkpoint the network's tensors stand under its own names in the group `model`, whatever the
    objective, so that sampling reads them alike; the objective's are a group of their own.
    """

    def __init__(self, network: Backbone, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective, self.losses = network, objective.module, objective
        flow = objective.flow
        # Where each sample draws its segment, a segment's number of samples changes from step to step.
        self.batch_varies = not flow.intervals.common and len(flow.segments) > 1
        self._prefixes = {MODEL: "network."} | (
            {OBJECTIVE: "objective."} if self.objective is not None else {}
        )

    def forward(self, points: Sequence[TrainingPoint]) -> list[Mapping[str, Tensor]]:
        if self.batch_varies:
            for point in points:
                _mark_batch_dynamic(point)
        return [self.losses(self.network, point) for point in points]

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile the network; the objective's branches are its own."""
        self.network.compile(*arguments, **options)

    @property
    def parts(self) -> tuple[str, ...]:
        """The groups in which a checkpoint holds what is trained."""
        return tuple(self._prefixes)

    def groups(self, tensors: Mapping[str, Tensor]) -> Groups:
        """Tensors under the names of this module -> the groups of a checkpoint."""
        return {
            group: {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
            for group, prefix in self._prefixes.items()
        }

    def named(self, groups: Groups) -> dict[str, Tensor]:
        """Groups of a checkpoint -> tensors under the names of this module."""
        return {
            self._prefixes[group] + name: x
            for group, tensors in groups.items()
            for name, x in tensors.items()
        }

    def averaged(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the tensors of which an average is kept: the network's."""
        return {name: x for name, x in tensors.items() if name.startswith(self._prefixes[MODEL])}

    def load(self, groups: Groups) -> None:
        """Take the weights of a checkpoint. Call it before the engine has the module."""
        self.load_state_dict(self.named({group: groups[group] for group in self.parts}))


def _mark_batch_dynamic(point: TrainingPoint) -> None:
    """Tell torch.compile that the number of samples varies: it would make a graph for the first number, and
    find out with the second."""
    # A second, which the first step of an optimizer takes in any case.
    from torch._dynamo import maybe_mark_dynamic

    times = (point.t,) if isinstance(point.t, Tensor) else point.t.values()
    for x in (*point.state.values(), *times, *point.condition.tensors()):
        maybe_mark_dynamic(x, 0)
