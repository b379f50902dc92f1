"""The networks that are compared, all of one size (S/2: 12 blocks, width 384, 6 heads, unless told) on
4-channel latents."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lapflow.backends.attention import SDPA
from lapflow.models import MoTDiT
from lapflow.models.blocks import MaskedAttention
from lapflow.models.sizes import SIZES
from lapflow.pyramids import LaplacianPyramid

CHANNELS, PATCH, CLASSES = 4, 2, 10
SHAPES = {**SIZES, "dry run": (1, 48, 2)}
"""Depth, width and heads by name; a rehearsal's network measures nothing and is as small as it may be."""


def lively(model: nn.Module) -> nn.Module:
    """Every weight drawn: the zeros that diffusion transformers begin with would hide work from the
    processor."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(0.02 * torch.randn(p.shape, generator=generator))
    return model


def ours(side: int, levels: int, size: str = "S", attention: Any = None, **options: Any) -> MoTDiT:
    """Our network over a Laplacian pyramid; at one level it is DiT."""
    bands = LaplacianPyramid(levels=levels).bands((CHANNELS, side, side))
    depth, width, heads = SHAPES[size]
    network = MoTDiT(
        bands, CLASSES, attention or SDPA(), depth=depth, width=width, heads=heads, patch=PATCH, **options
    )
    return lively(network)  # type: ignore[return-value]


def dense(side: int, levels: int, size: str = "S") -> MoTDiT:
    """Ours with the scale mask as a boolean matrix given to one call of the kernel."""
    model = ours(side, levels, size)
    model.transformer.attention = attention = _DenseMask(SDPA(), "causal", SHAPES[size][2])
    for block in model.transformer.blocks:
        block.attention = attention
    return model


class _DenseMask(MaskedAttention):
    def __call__(
        self, groups: Sequence[Tensor], lengths: tuple[int, ...], given: Tensor | None = None
    ) -> list[Tensor]:
        assert given is None, "this peer has no given tokens"
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in torch.cat(list(groups), dim=1).chunk(3, dim=-1)
        )
        scale = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        seen = scale[None, :] <= scale[:, None]
        found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen.to(q.device))
        return list(found.transpose(1, 2).flatten(2).split(lengths, dim=1))


def rectified_flow_pytorch(side: int, levels: int, size: str = "S") -> nn.Module:
    """LapFlowDiT of rectified-flow-pytorch: its module alone, because the package imports torchvision.

    `pip install --no-deps rectified-flow-pytorch==0.14.0 einx frozendict sympy`
    """
    package = importlib.util.find_spec("rectified_flow_pytorch")
    if package is None or not package.submodule_search_locations:
        raise SystemExit(rectified_flow_pytorch.__doc__)
    spec = importlib.util.spec_from_file_location(
        "lap_flow_alone", f"{package.submodule_search_locations[0]}/lap_flow.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    depth, width, heads = SHAPES[size]
    found = module.LapFlowDiT(
        side,
        PATCH,
        width,
        depth,
        heads,
        4 * width,
        channels=CHANNELS,
        dim_head=width // heads,
        num_scales=levels,
        accept_cond=True,
        cond_as_labels=True,
        condition=CLASSES,
    )
    return lively(found)


def diffusers_dit(side: int, size: str = "S") -> nn.Module:
    """diffusers' DiT, one scale."""
    from diffusers import DiTTransformer2DModel

    depth, width, heads = SIZES[size]
    return lively(
        DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=depth,
            sample_size=side,
            patch_size=PATCH,
            num_embeds_ada_norm=CLASSES,
        )
    )


def inputs(
    side: int, levels: int, batch: int, device: str = "cpu"
) -> tuple[dict[int, Tensor], Tensor, Tensor]:
    """A state of all scales, times and labels."""
    generator = torch.Generator().manual_seed(1)
    bands = LaplacianPyramid(levels=levels).bands((CHANNELS, side, side))
    state = {k: torch.randn(batch, *band.shape, generator=generator).to(device) for k, band in bands.items()}
    return (
        state,
        torch.rand(batch, generator=generator).to(device),
        torch.randint(CLASSES, (batch,), generator=generator).to(device),
    )
