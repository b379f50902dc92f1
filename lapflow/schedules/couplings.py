"""Minibatch optimal transport between data and noise (`independent` is beside the contract)."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lapflow.core.coupling import Coupling
from lapflow.util.transfer import upload


class MinibatchOT(Coupling):
    """The permutation of a batch's noise with the least sum of squared distances to the data (Pooladian et
    al. 2023; Tong et al. 2024): straighter paths. Solved exactly, by scipy's `linear_sum_assignment`, on the
    CPU: it waits for the GPU once a batch, and takes b^3 operations for a batch of b samples at the most."""

    def pair(self, data: Tensor, noise: Tensor, groups: Tensor | None = None) -> Tensor:
        cost = torch.cdist(data.flatten(1).double(), noise.flatten(1).double()).square().cpu()
        groups = torch.zeros(len(data), dtype=torch.int64) if groups is None else groups.cpu()
        rows = torch.arange(len(data))
        for group in groups.unique():
            members = (groups == group).nonzero().flatten()
            _, chosen = linear_sum_assignment(cost[members][:, members].numpy())
            rows[members] = members[torch.from_numpy(chosen)]
        return upload(rows, data.device)
