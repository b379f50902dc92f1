"""LapFlow's backbone: a mixture of diffusion transformers, one expert per scale, one attention over all
active scales.

With a single scale it is DiT (Peebles & Xie 2023), parameter for parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lapflow.backends.attention import resolve
from lapflow.core.attention import AttentionBackend
from lapflow.core.backbone import VARIANCE, Backbone
from lapflow.core.condition import Condition, Specs, specs
from lapflow.core.decomposition import Band
from lapflow.core.state import Times
from lapflow.models import sizes
from lapflow.models.transformer import ScaleTransformer


class MoTDiT(Backbone):
    """A diffusion transformer with an expert per scale and attention masked by scale.

    Time enters as a sinusoid of 1000 t, t the path's model time (in [0, 1] for most paths).
    """

    times_per_scale = True

    def __init__(
        self,
        bands: Mapping[int, Band],
        condition: Specs | int = 0,
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
        second_time: sizes.SecondTimeOption = False,
        given_tokens: sizes.GivenTokensOption = "group",
    ) -> None:
        super().__init__()
        self.heads, self.second_time = (VARIANCE,) if learn_sigma else (), second_time
        self.condition, self.mask = specs(condition), mask
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
            second_time=second_time,
            given_tokens=given_tokens,
        )
        self.transformer = ScaleTransformer(bands, self.condition, resolve(attention), design)

    def forward(
        self,
        state: Mapping[int, Tensor],
        t: Times,
        condition: Condition | Tensor | None = None,
        *,
        t_end: Times | None = None,
        return_hidden: Sequence[str] = (),
    ) -> Any:
        self.require_inputs(t, t_end, return_hidden)
        return self.transformer(state, t, condition, t_end, return_hidden)

    def hidden_names(self) -> tuple[str, ...]:
        return self.transformer.hidden_names()

    def prepare(self, condition: Condition) -> Condition:
        return self.transformer.prepare(condition)

    def multiply_adds(self, scales: Iterable[int]) -> dict[str, int]:
        return self.transformer.multiply_adds(scales)

    def require(self, device: torch.device, dtype: torch.dtype, needs_grad: bool) -> str:
        return self.transformer.require(device, dtype, needs_grad)

    def units(self) -> list[nn.Module]:
        return list(self.transformer.blocks)

    def reset_parameters(self) -> None:
        """Initialise all parameters and buffers, also after `to_empty` from device meta."""
        self.transformer.reset_parameters()
