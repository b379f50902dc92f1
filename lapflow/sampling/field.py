"""The network as a solver sees it: guided velocities of the active scales."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lapflow.core.backbone import Backbone, Condition
from lapflow.core.guidance import Guidance
from lapflow.core.intervals import Segment
from lapflow.core.solver import Field
from lapflow.core.state import State, batch_size, map_state


class ModelField(Field):
    """A backbone with a condition and guidance. The null class gives the unconditional prediction, in one batched call."""

    def __init__(self, model: Backbone, segment: Segment, labels: Tensor | None, guidance: Guidance, levels: int) -> None:
        self.model, self.segment, self.labels = model, segment, labels
        self.guidance, self.levels = guidance, levels
        self.dtype = next(model.parameters()).dtype

    def velocity(self, state: Mapping[int, Tensor], t: float) -> State:
        if self.labels is None or not self.guidance.active(t):
            return self._predict(state, t, self.labels)
        doubled = map_state(lambda x: torch.cat([x, x]), state)
        labels = torch.cat([self.labels, torch.full_like(self.labels, self.model.num_classes)])
        both = self._predict(doubled, t, labels)
        n = batch_size(state)
        return self.guidance.combine(map_state(lambda v: v[:n], both), map_state(lambda v: v[n:], both), self.levels)

    def _predict(self, state: Mapping[int, Tensor], t: float, labels: Tensor | None) -> State:
        first = next(iter(state.values()))
        times = torch.full((first.shape[0],), t, dtype=torch.float32, device=first.device)
        heads = self.model(map_state(lambda x: x.to(self.dtype), state), times, Condition(labels=labels))
        return map_state(lambda v, x: v.to(x.dtype), heads["main"], state)
