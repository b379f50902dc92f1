"""Separate models: one transformer per scale, each over the tokens its scale may see (the ablation of
LapFlow)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lapflow.backends.attention import resolve
from lapflow.core.attention import AttentionBackend
from lapflow.core.backbone import MAIN, VARIANCE, Backbone
from lapflow.core.condition import Condition, Specs, specs
from lapflow.core.decomposition import Band
from lapflow.core.state import Times
from lapflow.models import sizes
from lapflow.models.transformer import ScaleTransformer, active_scales


class Separate(Backbone):
    """One diffusion transformer per scale; tower k reads the scales that scale k may see and returns scale k.

    A tower is not given what could not reach its output: under mask causal the finer scales, under self all
    others. Its own attention has the same mask. At two scales from t = 0.5, size L/2, this costs 0.87 of a
    single-scale model under causal, where towers that read all tokens would cost 1.37.
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
        mask: sizes.MaskOption = "causal",
        conditioning: sizes.ConditioningOption = "adaln-zero",
        learn_sigma: sizes.LearnSigmaOption = False,
        second_time: sizes.SecondTimeOption = False,
        given_tokens: sizes.GivenTokensOption = "group",
    ) -> None:
        super().__init__()
        self.heads, self.second_time = (VARIANCE,) if learn_sigma else (), second_time
        self.bands, self.condition, self.mask = dict(bands), specs(condition), mask
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
            second_time=second_time,
            given_tokens=given_tokens,
        )
        backend = resolve(attention)
        self.towers = nn.ModuleDict(
            {
                str(k): ScaleTransformer(
                    bands, self.condition, backend, design, self._seen(k, tuple(bands)), (k,)
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
        self,
        state: Mapping[int, Tensor],
        t: Times,
        condition: Condition | Tensor | None = None,
        *,
        t_end: Times | None = None,
        return_hidden: Sequence[str] = (),
    ) -> Any:
        self.require_inputs(t, t_end, return_hidden)
        active_scales(state, tuple(self.bands), self.bands)
        towers, hidden = {}, {}
        for k in state:
            seen = {j: state[j] for j in self._seen(k, tuple(state))}
            towers[k] = self._tower(k)(seen, t, condition, t_end, return_hidden)
            if return_hidden:
                towers[k], hidden[k] = towers[k]
        heads = {name: {k: found[name][k] for k, found in towers.items()} for name in (MAIN, *self.heads)}
        if not return_hidden:
            return heads
        return heads, {name: {k: found[name][k] for k, found in hidden.items()} for name in return_hidden}

    def hidden_names(self) -> tuple[str, ...]:
        """Of tower k the tokens of scale k."""
        return self._tower(next(iter(self.bands))).hidden_names()

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
