"""LapFlow's backbone: a mixture of diffusion transformers, one expert per scale, one attention over all
active scales.

With a single scale it is DiT (Peebles & Xie 2023), parameter for parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from lapflow.backends.attention import resolve
from lapflow.core.attention import AttentionBackend
from lapflow.core.backbone import VARIANCE, Backbone, Condition, Heads
from lapflow.core.decomposition import Band
from lapflow.models import sizes
from lapflow.models.transformer import ScaleTransformer


class MoTDiT(Backbone):
    """A diffusion transformer with an expert per scale and attention masked by scale.

    Time enters as a sinusoid of 1000 t, t the path's model time (in [0, 1] for most paths).
    """

    remakes = True

    def __init__(
        self,
        bands: Mapping[int, Band],
        num_classes: int = 0,
        attention: str | AttentionBackend = "auto",
        *,
        size: sizes.SizeOption = None,
        depth: sizes.DepthOption = None,
        width: sizes.WidthOption = None,
        heads: sizes.HeadsOption = None,
        patch: sizes.PatchOption = None,
        mlp_ratio: sizes.RatioOption = 4.0,
        experts: Annotated[
            sizes.Experts,
            Field(description="token-wise layers of the blocks: one set per scale, or one for all"),
        ] = "per-scale",
        mask: sizes.MaskOption = "causal",
        conditioning: sizes.ConditioningOption = "adaln-zero",
        learn_sigma: sizes.LearnSigmaOption = False,
    ) -> None:
        super().__init__()
        self.heads = (VARIANCE,) if learn_sigma else ()
        self.num_classes, self.mask = num_classes, mask
        design = sizes.architecture(
            bands,
            size=size,
            depth=depth,
            width=width,
            heads=heads,
            patch=patch,
            mlp_ratio=mlp_ratio,
            mask=mask,
            conditioning=conditioning,
            experts=experts,
            learn_sigma=learn_sigma,
        )
        self.transformer = ScaleTransformer(bands, num_classes, resolve(attention), design)

    def forward(
        self, state: Mapping[int, Tensor], t: Tensor, condition: Condition | Tensor | None = None
    ) -> Heads:
        heads: Heads = self.transformer(state, t, condition)
        return heads

    def multiply_adds(self, scales: Iterable[int]) -> dict[str, int]:
        return self.transformer.multiply_adds(scales)

    def require(self, device: torch.device, dtype: torch.dtype, needs_grad: bool) -> str:
        return self.transformer.require(device, dtype, needs_grad)

    def units(self) -> list[nn.Module]:
        return list(self.transformer.blocks)

    def reset_parameters(self) -> None:
        """Initialise all parameters and buffers, also after `to_empty` from device meta."""
        self.transformer.reset_parameters()
