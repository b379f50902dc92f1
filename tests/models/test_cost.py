"""Stated multiply-adds against those that PyTorch counts, and against the published ratios."""

import itertools

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lapflow.backends.attention import SDPA
from lapflow.models import MoTDiT, Separate
from tests.models.builders import inputs, laplacian, small

BANDS = laplacian(3, (2, 16, 8))
NETWORKS = [*({"cls": MoTDiT, "experts": e} for e in ("per-scale", "shared")), {"cls": Separate}]


@pytest.mark.parametrize("options", NETWORKS)
@pytest.mark.parametrize(
    ("mask", "conditioning"), [*itertools.product(["none", "self", "causal"], ["adaln-zero", "in-context"])]
)
def test_stated_multiply_adds_are_those_counted(options, mask, conditioning):
    model = small(BANDS, mask=mask, conditioning=conditioning, patch=[1, 2, 2], mlp_ratio=1.5, **options)
    for scales in ([2], [2, 1], [2, 1, 0]):
        state, t, labels = inputs(BANDS, batch=2, scales=scales)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(state, t, labels)
        d, towers = 16, len(scales) if options["cls"] is Separate else 1
        time = (256 * d + d * d) * towers  # the embedding of t, which the statement leaves out
        assert counter.get_total_flops() == 2 * 2 * (sum(model.multiply_adds(iter(scales)).values()) + time)


@pytest.mark.parametrize(
    ("cls", "mask", "starts", "parts", "ratio"),
    [
        (MoTDiT, "causal", [0, 0.5], {"linear", "attention"}, 0.7475),
        (MoTDiT, "causal", [0, 0.5], {"linear", "attention", "modulation"}, 0.7489),
        (MoTDiT, "none", [0, 0.5], {"linear", "attention"}, 0.7525),
        (MoTDiT, "self", [0, 0.5], {"linear", "attention"}, 0.7425),
        (MoTDiT, "causal", [0, 0.33, 0.67], {"linear", "attention"}, 0.557),
        (Separate, "none", [0, 0.5], {"linear", "attention"}, 1.3837),
        (
            Separate,
            "causal",
            [0, 0.5],
            {"linear", "attention"},
            0.8687,
        ),  # 1.374 if the towers read tokens that cannot matter
    ],
)
def test_time_weighted_cost_over_single_scale(cls, mask, starts, parts, ratio):
    """Each segment's cost times its length, over one scale; L/2 on 4x32x32 latents. The first is LapFlow's
    saving."""
    levels = len(starts)
    with torch.device("meta"):
        single = MoTDiT(laplacian(1, (4, 32, 32)), 1000, SDPA(), size="L/2")
        model = cls(laplacian(levels, (4, 32, 32)), 1000, SDPA(), size="L/2", mask=mask)

    def cost(network, scales):
        return sum(count for part, count in network.multiply_adds(scales).items() if part in parts)

    lengths = [b - a for a, b in itertools.pairwise([*starts, 1])]
    total = sum(length * cost(model, range(levels - 1 - j, levels)) for j, length in enumerate(lengths))
    assert total / cost(single, [0]) == pytest.approx(ratio, abs=5e-4)
