"""Separate models: one transformer per scale, each over the tokens its scale may see (the ablation of
LapFlow)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lapflow.backends.attention import resolve
from lapflow.core.attention import AttentionBackend
from lapflow.core.backbone import VARIANCE, Backbone, Condition, Heads
from lapflow.core.decomposition import Band
from lapflow.models import sizes
from lapflow.models.transformer import ScaleTransformer, active_scales


class Separate(Backbone):
    """One diffusion transformer per scale; tower k reads the scales that scale k may see and returns scale k.

    A tower is not given what could not reach its output: under mask causal the finer scales, under self all
    others. Its own attention has the same mask. At two scales from t = 0.5, size L/2, this costs 0.87 of a
    single-scale model under causal, where towers that read all tokens would cost 1.37.
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
        mask: sizes.MaskOption = "causal",
        conditioning: sizes.ConditioningOption = "adaln-zero",
        learn_sigma: sizes.LearnSigmaOption = False,
    ) -> None:
        super().__init__()
        self.heads = (VARIANCE,) if learn_sigma else ()
        self.bands, self.num_classes, self.mask = dict(bands), num_classes, mask
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
            experts="shared",
            learn_sigma=learn_sigma,
        )
        backend = resolve(attention)
        self.towers = nn.ModuleDict(
            {
                str(k): ScaleTransformer(
                    bands, num_classes, backend, design, self._seen(k, tuple(bands)), (k,)
                )
                for k in bands
            }
        )

    def _seen(self, scale: int, scales: Sequence[int]) -> tuple[int, ...]:
        """Those of `scales` that the tower of `scale` reads."""
        return tuple(
            k for k in scales if self.mask == "none" or k == scale or (self.mask == "causal" and k > scale)
        )

    def _tower(self, scale: int) -> ScaleTransformer:
        return cast(ScaleTransformer, self.towers[str(scale)])

    def forward(
        self, state: Mapping[int, Tensor], t: Tensor, condition: Condition | Tensor | None = None
    ) -> Heads:
        active_scales(state, tuple(self.bands), self.bands)
        towers = {
            k: self._tower(k)({j: state[j] for j in self._seen(k, tuple(state))}, t, condition) for k in state
        }
        return {
            name: {k: heads[name][k] for k, heads in towers.items()} for name in next(iter(towers.values()))
        }

    def multiply_adds(self, scales: Iterable[int]) -> dict[str, int]:
        active = tuple(scales)
        total: Counter[str] = Counter()
        for k in active:
            total.update(self._tower(k).multiply_adds(self._seen(k, active)))
        return dict(total)

    def require(self, device: torch.device, dtype: torch.dtype, needs_grad: bool) -> str:
        return self._tower(next(iter(self.bands))).require(device, dtype, needs_grad)

    def units(self) -> list[nn.Module]:
        return [block for k in self.bands for block in self._tower(k).blocks]

    def reset_parameters(self) -> None:
        """Initialise all parameters and buffers, also after `to_empty` from device meta."""
        for k in self.towers:
            self._tower(int(k)).reset_parameters()
