"""What a run trains: the network, and with it the weights of an objective that has some; and their names in a
checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lapflow.config.building import Composition
from lapflow.core.flow import TrainingPoint
from lapflow.core.objective import Judged

MODEL = "model"
OBJECTIVE = "objective"
"""The groups of tensors in a checkpoint."""

Groups = dict[str, dict[str, Tensor]]


class Learner:
    """`module` is what the engine trains: the network itself, or `Judged` of it and the objective.

    In a checkpoint the network's tensors stand under its own names in the group `model` whatever the
    objective, so that sampling reads them alike; the objective's are a group of their own.
    """

    def __init__(self, parts: Composition) -> None:
        parts.build_objective()
        objective = parts.flow.objective
        self._modules: dict[str, nn.Module] = {MODEL: parts.model}
        self._prefixes = {MODEL: ""}
        self.module: nn.Module = parts.model
        if objective.module is not None:
            self._modules[OBJECTIVE] = objective.module
            self._prefixes = {MODEL: "network.", OBJECTIVE: "objective."}
            self.module = Judged(parts.model, objective)

    @property
    def parts(self) -> tuple[str, ...]:
        """The groups in which a checkpoint holds what is trained."""
        return tuple(self._modules)

    def groups(self, tensors: Mapping[str, Tensor]) -> Groups:
        """Tensors under the module's names -> the groups of a checkpoint."""
        return {
            group: {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
            for group, prefix in self._prefixes.items()
        }

    def named(self, groups: Groups) -> dict[str, Tensor]:
        """Groups of a checkpoint -> tensors under the module's names."""
        return {
            self._prefixes[group] + name: x
            for group, tensors in groups.items()
            for name, x in tensors.items()
        }

    def averaged(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the module's tensors of which an average is kept: the network's."""
        return {name: x for name, x in tensors.items() if name.startswith(self._prefixes[MODEL])}

    def load(self, groups: Groups) -> None:
        """Take the weights of a checkpoint. Call it before the engine has the module."""
        for group, module in self._modules.items():
            module.load_state_dict(groups[group])


def arguments(point: TrainingPoint) -> tuple[Any, ...]:
    """What a learner's module is called with for a training pair.

    Where each sample draws its segment, a segment's number of samples changes from step to step.
    torch.compile is told so
    beforehand: it would make a graph for the first number, and find out with the second.
    """
    condition = point.condition()
    call = (point.state, point.t, condition)
    if not point.flow.intervals.common and len(point.flow.segments) > 1:
        # Private, since `torch.compiler` has no name for it: `torch.compile(dynamic=True)` would leave every
        # size of the network open, not the batch's alone. Its import takes a second, which the first step of
        # an optimizer takes in any case.
        from torch._dynamo import maybe_mark_dynamic

        for x in (
            *point.state.values(),
            point.t,
            condition.labels,
            condition.level,
            *(condition.image or {}).values(),
        ):
            if x is not None:
                maybe_mark_dynamic(x, 0)
    return call if point.flow.objective.module is None else (*call, point)


def losses(output: Any, point: TrainingPoint) -> Mapping[str, Tensor]:
    """The named losses, given what a learner's module returned for a pair."""
    objective = point.flow.objective
    return objective(output, point) if objective.module is None else output
