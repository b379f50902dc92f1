"""LapFlow's backbone, a mixture of diffusion transformers with one attention over all active scales, and its
ablation, separate models.

With a single scale both are DiT (Peebles & Xie 2023), parameter for parameter.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from lapflow.backends.attention import resolve
from lapflow.core.attention import AttentionBackend, Mask
from lapflow.core.backbone import MAIN, VARIANCE, Backbone
from lapflow.core.condition import Condition, Specs, specs
from lapflow.core.decomposition import Band
from lapflow.core.state import State, Times
from lapflow.models import sizes
from lapflow.models.transformer import LearnSigmaOption, ScaleTransformer, require_scales


class TransformerBackbone(Backbone):
    """A network made of transformers over scales, of which each returns some of the scales that it reads.

    Time enters as a sinusoid of 1000 t, t the path's model time (in [0, 1] for most paths).
    """

    times_per_scale = True

    def __init__(
        self,
        bands: Mapping[int, Band],
        condition: Specs | int = 0,
        attention: str | AttentionBackend = "auto",
        *,
        size: Annotated[
            str | None,
            Field(
                description="S, B, L or XL, with the patch size if wanted: S/2; or give depth, width and "
                "heads"
            ),
        ] = None,
        depth: Annotated[int | None, Field(ge=1, description="number of blocks, instead of a size")] = None,
        width: Annotated[int | None, Field(ge=4, description="token width d, instead of a size")] = None,
        heads: Annotated[int | None, Field(ge=1, description="attention heads, instead of a size")] = None,
        patch: Annotated[
            sizes.Patch | None,
            Field(
                description="patch size, or one per scale coarse to fine, each for all axes or a list per "
                f"axis; {sizes.DEFAULT_PATCH} if neither this nor the size's name says"
            ),
        ] = None,
        mlp_ratio: Annotated[float, Field(gt=0, description="width of the MLP over the token width")] = 4.0,
        experts: Annotated[
            sizes.Experts,
            Field(description="token-wise layers of the blocks: one set per scale, or one for all"),
        ] = "per-scale",
        mask: Annotated[
            Mask, Field(description="scales that scale k's tokens see: causal k' >= k, self only k, none all")
        ] = "causal",
        conditioning: Annotated[
            sizes.Conditioning,
            Field(
                description="how t and the class enter: adaln-zero modulates every block, in-context "
                "prepends them as tokens"
            ),
        ] = "adaln-zero",
        learn_sigma: LearnSigmaOption = False,
        second_time: Annotated[
            bool, Field(description="embed a second time t_end, where the predicted step ends (flow maps)")
        ] = False,
        given_tokens: Annotated[
            sizes.GivenTokens,
            Field(
                description="how given tokens (a caption's) enter: as a group of their own, computed once "
                "per sample, that every scale reads; by cross-attention in every block; in-context, in front "
                "of every scale's tokens"
            ),
        ] = "group",
    ) -> None:
        super().__init__()
        self.heads, self.second_time = (VARIANCE,) if learn_sigma else (), second_time
        self.bands, self.condition, self.mask = dict(bands), specs(condition), mask
        self.design = sizes.Architecture(
            *sizes.dimensions(bands, size, depth, width, heads, patch),
            mlp_ratio=mlp_ratio,
            mask=mask,
            conditioning=conditioning,
            experts=experts,
            learn_sigma=learn_sigma,
            second_time=second_time,
            given_tokens=given_tokens,
        )
        self.build(resolve(attention))

    @abstractmethod
    def build(self, attention: AttentionBackend) -> None:
        """Make the transformers."""

    @abstractmethod
    def transformers(self) -> list[ScaleTransformer]:
        """They, in the order of the scales that they return."""

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
        require_scales(state, self.bands)
        heads: dict[str, State] = {name: {} for name in (MAIN, *self.heads)}
        hidden: dict[str, State] = {name: {} for name in return_hidden}
        for transformer in self.transformers():
            if not any(k in state for k in transformer.outputs):
                continue
            seen = {k: x for k, x in state.items() if k in transformer.inputs}
            found, tokens = transformer(seen, t, condition, t_end, return_hidden)
            for name in heads:
                heads[name] |= found[name]
            for name in hidden:
                hidden[name] |= tokens[name]
        heads = {name: {k: head[k] for k in state} for name, head in heads.items()}
        return (heads, hidden) if return_hidden else heads

    def hidden_names(self) -> tuple[str, ...]:
        """`block1`, `block2`, ...: the tokens after each block."""
        return self.design.hidden_names

    def multiply_adds(self, scales: Iterable[int]) -> dict[str, int]:
        active = set(scales)
        assert active <= self.bands.keys(), f"scales {active} are not all among {list(self.bands)}"
        total: Counter[str] = Counter()
        for transformer in self.transformers():
            if active.intersection(transformer.outputs):
                total.update(transformer.multiply_adds(active))
        return dict(total)

    def require(self, device: torch.device, dtype: torch.dtype, needs_grad: bool) -> str:
        return self.transformers()[0].require(device, dtype, needs_grad)

    def units(self) -> list[nn.Module]:
        return [block for transformer in self.transformers() for block in transformer.blocks]

    def reset_parameters(self) -> None:
        """Initialise all parameters and buffers, also after `to_empty` from device meta."""
        for transformer in self.transformers():
            transformer.reset_parameters()


class MoTDiT(TransformerBackbone):
    """A diffusion transformer with an expert per scale and attention masked by scale."""

    def build(self, attention: AttentionBackend) -> None:
        self.transformer = ScaleTransformer(self.bands, self.condition, attention, self.design)

    def transformers(self) -> list[ScaleTransformer]:
        return [self.transformer]

    def prepare(self, condition: Condition) -> Condition:
        return self.transformer.prepare(condition)


class Separate(TransformerBackbone):
    """One diffusion transformer per scale; tower k reads the scales that scale k may see and returns scale k.

    A tower is not given what could not reach its output: under mask causal the finer scales, under self all
    others. Its own attention has the same mask. At two scales from t = 0.5, size L/2, this costs 0.87 of a
    single-scale model under causal, where towers that read all tokens would cost 1.37.
    """

    settled = ("experts",)

    def build(self, attention: AttentionBackend) -> None:
        self.design, towers = replace(self.design, experts="shared"), nn.ModuleDict()
        for k in self.bands:
            seen = [
                j for j in self.bands if self.mask == "none" or j == k or (self.mask == "causal" and j > k)
            ]
            towers[str(k)] = ScaleTransformer(self.bands, self.condition, attention, self.design, seen, [k])
        self.towers = towers

    def transformers(self) -> list[ScaleTransformer]:
        return [cast(ScaleTransformer, tower) for tower in self.towers.values()]
