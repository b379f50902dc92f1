"""Muon for the matrices of the blocks, AdamW for the rest: the steps of torch's own two."""

import torch
from torch import nn

from lapflow.optimizers.torch import Muon
from tests.support import seeded

SHAPES = {"blocks.weight": (6, 4), "blocks.bias": (6,), "table.weight": (5, 6)}


def weights():
    return {
        name: nn.Parameter(torch.randn(shape, generator=seeded(len(name)))) for name, shape in SHAPES.items()
    }


def test_it_steps_as_torch_s_muon_and_adamw_do():
    ours, theirs = weights(), weights()
    built = Muon(weight_decay=0.1).build(ours, {"blocks.weight", "blocks.bias"}, 0.02)
    apart = [
        torch.optim.Muon(
            [theirs["blocks.weight"]], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW([theirs["blocks.bias"], theirs["table.weight"]], lr=0.02, weight_decay=0.1),
    ]
    for step in range(4):
        for name in SHAPES:
            gradient = torch.randn(SHAPES[name], generator=seeded(100 * step + len(name)))
            ours[name].grad, theirs[name].grad = gradient.clone(), gradient.clone()
        built.step()
        for optimizer in apart:
            optimizer.step()
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-6) for name in SHAPES)


def test_without_matrices_it_is_adamw():
    only = {"head.bias": nn.Parameter(torch.ones(3))}
    built = Muon().build(only, (), 0.1)
    only["head.bias"].grad = torch.ones(3)
    built.step()
    assert torch.allclose(only["head.bias"], torch.full((3,), 0.9), atol=1e-6)
