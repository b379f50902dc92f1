"""With one scale MoTDiT is DiT: its parameter counts, and its function as written down here a second time."""

import math

import pytest
import torch
import torch.nn.functional as F

from lapflow.backends.attention import SDPA
from lapflow.models import MoTDiT
from lapflow.models.layers import TimestepEmbedder, patchify, position_embedding, unpatchify
from tests.models.builders import inputs, laplacian, small


@pytest.mark.parametrize(("size", "millions"), [("B/2", 130.30), ("L/2", 457.82), ("XL/2", 674.82)])
def test_trainable_parameters_of_dit(size, millions):
    with torch.device("meta"):
        model = MoTDiT(laplacian(1, (4, 32, 32)), 1000, SDPA(), size=size)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6 == pytest.approx(
        millions, abs=0.005
    )


def dit(w, x, t, y, *, depth, heads, patch):
    """DiT's forward from its paper, on the weights `w` of a network of scale 0."""
    b, c, side, _ = x.shape
    d, g = w["embeds.0.proj.weight"].shape[0], side // patch
    tokens = F.conv2d(
        x, w["embeds.0.proj.weight"].view(d, c, patch, patch), w["embeds.0.proj.bias"], stride=patch
    )
    tokens = tokens.flatten(2).transpose(1, 2) + positions(d, g)
    angles = 1000 * t[:, None] * torch.tensor([10000 ** (-i / 128) for i in range(128)], dtype=t.dtype)
    time = torch.cat([angles.cos(), angles.sin()], 1) @ w["time.mlp.0.weight"].T + w["time.mlp.0.bias"]
    time = F.silu(time) @ w["time.mlp.2.weight"].T + w["time.mlp.2.bias"]
    condition = F.silu(time + w["label.table.weight"][y])
    for i in range(depth):
        e = {name.removeprefix(f"blocks.{i}.experts.0."): p for name, p in w.items()}
        m = [
            part[:, None]
            for part in (condition @ e["modulation.weight"].T + e["modulation.bias"]).chunk(6, 1)
        ]
        h = F.layer_norm(tokens, (d,), eps=1e-6) * (1 + m[1]) + m[0]
        q, k, v = (
            part.unflatten(2, (heads, -1)) for part in (h @ e["qkv.weight"].T + e["qkv.bias"]).chunk(3, 2)
        )
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).div(math.sqrt(d // heads)).softmax(-1)
        h = torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)
        tokens = tokens + m[2] * (h @ e["proj.weight"].T + e["proj.bias"])
        h = F.layer_norm(tokens, (d,), eps=1e-6) * (1 + m[4]) + m[3]
        h = F.gelu(h @ e["mlp.fc1.weight"].T + e["mlp.fc1.bias"], approximate="tanh")
        tokens = tokens + m[5] * (h @ e["mlp.fc2.weight"].T + e["mlp.fc2.bias"])
    shift, scale = (condition @ w["finals.0.modulation.weight"].T + w["finals.0.modulation.bias"])[
        :, None
    ].chunk(2, 2)
    h = F.layer_norm(tokens, (d,), eps=1e-6) * (1 + scale) + shift
    h = h @ w["finals.0.linear.weight"].T + w["finals.0.linear.bias"]
    return torch.einsum("nhwpqc->nchpwq", h.view(b, g, g, patch, patch, c)).reshape(b, c, side, side)


def positions(d, g):
    """Row n = (i, j): sin and cos of the column j, then of the row i, over 10000^(4 m / d)."""
    table = torch.empty(g * g, d)
    for n in range(g * g):
        for m in range(d // 4):
            rate = 10000 ** (-4 * m / d)
            row, column = n // g * rate, n % g * rate
            table[n, m], table[n, d // 4 + m] = math.sin(column), math.cos(column)
            table[n, d // 2 + m], table[n, 3 * d // 4 + m] = math.sin(row), math.cos(row)
    return table


@pytest.mark.parametrize("experts", ["per-scale", "shared"])
def test_one_scale_is_dit(experts):
    bands = laplacian(1, (3, 8, 8))
    model = small(bands, experts=experts, patch=2).double()
    state, t, labels = inputs(bands)
    state, t = {0: state[0].double()}, t.double()
    weights = {
        name.replace("experts.shared", "experts.0"): p for name, p in model.transformer.named_parameters()
    }
    want = dit(weights, state[0], t, labels, depth=2, heads=2, patch=2)
    torch.testing.assert_close(
        model(state, t, labels)["main"][0], want, rtol=1e-5, atol=1e-6
    )  # positions are kept in float32


def test_one_scale_positions_are_dits():
    torch.testing.assert_close(position_embedding(32, (5, 5), (5, 5)), positions(32, 5))


def test_positions_of_scales_align():
    """The mean place of the fine tokens under a coarse token is its place; so at even ratios its coordinate
    is half way."""
    fine, coarse = (
        position_embedding(8, (6, 12), (6, 12)).view(6, 12, 8),
        position_embedding(8, (3, 6), (6, 12)).view(3, 6, 8),
    )
    torch.testing.assert_close(
        coarse[0, :, 0], torch.sin(torch.arange(6) * 2 + 0.5)
    )  # first frequency 1: sin of the column itself
    torch.testing.assert_close(coarse[:, 0, 4], torch.sin(torch.arange(3) * 2 + 0.5))
    torch.testing.assert_close(fine[0, :, 0], torch.sin(torch.arange(12.0)))


def test_patches_come_back():
    x = torch.randn(2, 3, 4, 6)
    tokens = patchify(x, (2, 2))
    assert tokens.shape == (2, 6, 12)
    channels_last = tokens.unflatten(2, (3, 2, 2)).permute(0, 1, 3, 4, 2).flatten(2)
    assert torch.equal(unpatchify(channels_last, (2, 2), (2, 3)), x)


def test_time_is_scaled_to_a_thousand_and_survives_half_precision():
    embed = TimestepEmbedder(8)
    sinusoid = embed.sinusoid(torch.tensor([0.5]))
    assert sinusoid[0, 0].item() == pytest.approx(math.cos(500.0), abs=1e-4)
    assert embed.sinusoid(torch.tensor([0.5], dtype=torch.bfloat16)).dtype == torch.float32
    assert embed.double().sinusoid(torch.tensor([0.5], dtype=torch.float64)).dtype == torch.float64
