"""Cross-entropy of the tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from lapflow.core.backbone import Backbone
from lapflow.core.objective import Objective
from lapflow.flows.flow import TrainingPoint
from varlap.network import CODES, LOGITS
from varlap.quantiser import blocks, nearest


class CrossEntropy(Objective):
    """-log p(token) of each block of each active scale, in nats a token, times the scale's weight."""

    heads = (LOGITS, CODES)

    def __call__(self, network: Backbone, point: TrainingPoint) -> Mapping[str, Tensor]:
        heads, losses = network(point.state, point.t, point.condition), {}
        for k, target in point.target.items():
            logits, codes = heads[LOGITS][k], heads[CODES][k][0]
            tokens = nearest(blocks(target, target.shape[-1] // logits.shape[-1]), codes)
            errors = F.cross_entropy(logits.float(), tokens, reduction="none")
            losses[f"scale{k}"] = (point.weights[k] * errors.flatten(1).mean(1)).mean()
        return losses
