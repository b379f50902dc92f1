"""The transformer over scales that the backbones are made of.

Tokens of the active scales stand in one sequence, coarse to fine; attention is masked by scale; every scale
has its own patch embedding and final layer; blocks have one expert per scale or one for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lapflow.core.attention import AttentionBackend, attention_pairs
from lapflow.core.backbone import MAIN, VARIANCE, Condition, Heads
from lapflow.core.decomposition import Band
from lapflow.core.errors import ConfigError, SizeError
from lapflow.models.blocks import Block, Expert, MaskedAttention, ModulatedExpert
from lapflow.models.layers import (
    FinalLayer,
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    grid_of,
    refuse_labels,
)
from lapflow.models.sizes import Architecture

SHARED = "shared"


class ScaleTransformer(nn.Module):
    """Takes the scales `inputs` and returns those of them in `outputs` (both default to all bands), coarse to
    fine.

    Positions are relative to the finest of all `bands`, so that towers over fewer scales place their tokens
    alike.
    """

    def __init__(
        self,
        bands: Mapping[int, Band],
        num_classes: int,
        attention: AttentionBackend,
        design: Architecture,
        inputs: Sequence[int] | None = None,
        outputs: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.bands, self.num_classes, self.design = dict(bands), num_classes, design
        self.inputs = tuple(bands if inputs is None else inputs)
        self.outputs = self.inputs if outputs is None else tuple(outputs)
        self.modulated = design.conditioning == "adaln-zero"
        embeds = self._embeds()
        self.embeds = nn.ModuleDict(embeds)
        self.time = TimestepEmbedder(design.width)
        self.label = LabelEmbedder(num_classes, design.width) if num_classes else None
        # How much the image beside the state is corrupted: a second time.
        self.level = TimestepEmbedder(design.width) if any(bands[k].condition for k in self.inputs) else None
        self.attention = MaskedAttention(attention, design.mask, design.heads)
        self.blocks = nn.ModuleList(Block(self._experts(), self.attention) for _ in range(design.depth))
        self.finals = nn.ModuleDict(
            {
                str(k): FinalLayer(
                    embeds[str(k)], bands[k].channels * (1 + design.learn_sigma), design.width, self.modulated
                )
                for k in self.outputs
            }
        )
        self.reset_parameters()

    def require(self, device: torch.device, dtype: torch.dtype, needs_grad: bool) -> str:
        """The attention kernel that runs there. Raises `BackendError` if the backend cannot."""
        return self.attention.require(device, dtype, self.design.width // self.design.heads, needs_grad)

    def _embeds(self) -> dict[str, PatchEmbed]:
        finest = min(self.bands)
        patch = self.design.patches
        grid = grid_of(self.bands[finest], patch[finest])
        return {str(k): PatchEmbed(self.bands[k], patch[k], self.design.width, grid) for k in self.inputs}

    def _experts(self) -> dict[str, Expert]:
        names = [str(k) for k in self.inputs] if self.design.experts == "per-scale" else [SHARED]
        kind = ModulatedExpert if self.modulated else Expert
        return {name: kind(self.design.width, self.design.hidden) for name in names}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise parameters as DiT does, and fill the position buffers (also after `to_empty` from device
        meta)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, TimestepEmbedder):
                for linear in (module.mlp[0], module.mlp[2]):
                    nn.init.normal_(cast(nn.Linear, linear).weight, std=0.02)
            elif isinstance(module, LabelEmbedder):
                nn.init.normal_(module.table.weight, std=0.02)
            elif isinstance(module, ModulatedExpert):
                nn.init.zeros_(module.modulation.weight)
            elif isinstance(module, FinalLayer):
                nn.init.zeros_(module.linear.weight)
                if module.modulation is not None:
                    nn.init.zeros_(module.modulation.weight)
            elif isinstance(module, PatchEmbed):
                module.reset_position()

    # ------------------------------------------------------------------ forward

    def forward(
        self, state: Mapping[int, Tensor], t: Tensor, given: Condition | Tensor | None = None
    ) -> Heads:
        """state {k: [b, c_k, *sizes_k]} of any non-empty coarse suffix of `inputs`, t [b], what is given
        beside
        -> heads of {k: [b, c_k, *sizes_k]} for the active ones of `outputs`, in the order of `state`."""
        scales = active_scales(state, self.inputs, self.bands)
        given = Condition.of(given)
        condition, prefix = self._condition(t, given)
        tokens = [self.embeds[str(k)](self._beside(state[k], k, given)) for k in scales]
        if prefix is not None:  # in front of every scale's own tokens, so that they are seen under every mask
            tokens = [torch.cat([prefix, x], dim=1) for x in tokens]
        lengths = tuple(x.shape[1] for x in tokens)
        shared = self.design.experts == "shared"
        names = (SHARED,) if shared else tuple(str(k) for k in scales)
        groups = (torch.cat(tokens, dim=1),) if shared else tuple(tokens)
        for block in self.blocks:
            groups = block(groups, condition, names, lengths)
        tokens = list(groups[0].split(lengths, dim=1)) if shared else list(groups)
        if prefix is not None:
            tokens = [x[:, prefix.shape[1] :] for x in tokens]
        found = {k: self.finals[str(k)](x, condition) for k, x in zip(scales, tokens) if k in self.outputs}
        if not self.design.learn_sigma:
            return {MAIN: {k: found[k] for k in state if k in found}}
        halves = {k: found[k].chunk(2, dim=1) for k in state if k in found}
        return {
            MAIN: {k: pair[0] for k, pair in halves.items()},
            VARIANCE: {k: pair[1] for k, pair in halves.items()},
        }

    def _beside(self, x: Tensor, scale: int, given: Condition) -> Tensor:
        """A scale with the image that is given beside it, as further channels."""
        if not self.bands[scale].condition:
            return x
        if given.image is None or scale not in given.image:
            raise ConfigError(
                f"the network of scale {scale} wants the coarser image beside it",
                got="none",
                expected="condition.image",
            )
        return torch.cat([x, given.image[scale].to(x.dtype)], dim=1)

    def _condition(self, t: Tensor, given: Condition) -> tuple[Tensor | None, Tensor | None]:
        """The condition for modulation [b, d], its SiLU taken once for all layers; or the tokens to prepend
        [b, 1 to 3, d]."""
        embedded = [self.time(t)]
        if self.label is not None:
            embedded.append(self.label(given.labels, t))
        elif given.labels is not None:
            refuse_labels()
        if self.level is not None:
            if given.level is None and given.image is not None:
                raise ConfigError(
                    "an image is given without the level of its corruption",
                    got="none",
                    expected="condition.level [b]",
                )
            embedded.append(
                self.level(torch.zeros_like(t) if given.level is None else given.level.to(t.dtype))
            )
        return (
            (F.silu(sum(embedded[1:], embedded[0])), None)
            if self.modulated
            else (None, torch.stack(embedded, dim=1))
        )

    # ------------------------------------------------------------------ cost

    def multiply_adds(self, scales: Iterable[int]) -> dict[str, int]:
        """Multiply-adds of one evaluation of one sample with these active scales, by part (n_k tokens, d
        width, L depth).

        `linear`: (4 + 2 mlp_ratio) d^2 L sum(n_k), which is 12 d^2 L sum(n_k) at ratio 4, plus the patch
        embeddings and the final linear layers. `attention`: 2 d L pairs. `modulation`: 6 d^2 L per expert
        used, plus 2 d^2 per final layer; none under in-context conditioning, whose extra tokens count in the
        other two. Embeddings of t and y are left out.
        """
        given = set(scales)
        assert given <= set(self.inputs), (
            f"scales {given - set(self.inputs)} are not among the network's {self.inputs}"
        )
        active, d, depth = [k for k in self.inputs if k in given], self.design.width, self.design.depth
        pixels = {k: math.prod(self.bands[k].sizes) for k in active}
        extra = 0 if self.modulated else 1 + (self.num_classes > 0) + (self.level is not None)
        lengths = [cast(PatchEmbed, self.embeds[str(k)]).tokens + extra for k in active]
        returned = [k for k in active if k in self.outputs]
        experts = len(active) if self.design.experts == "per-scale" else 1
        read = sum(pixels[k] * (self.bands[k].channels + self.bands[k].condition) for k in active)
        written = sum(pixels[k] * self.bands[k].channels * (1 + self.design.learn_sigma) for k in returned)
        ends = d * (read + written)
        return {
            "linear": (4 * d * d + 2 * d * self.design.hidden) * depth * sum(lengths) + ends,
            "attention": 2 * d * depth * attention_pairs(lengths, self.design.mask),
            "modulation": d * d * (6 * depth * experts + 2 * len(returned)) if self.modulated else 0,
        }


def active_scales(
    state: Mapping[int, Tensor], scales: tuple[int, ...], bands: Mapping[int, Band]
) -> tuple[int, ...]:
    """The scales of `state`, coarse to fine. Raises unless they are a non-empty coarse part of `scales`, or
    one of them alone (a merged image), shaped as their bands."""
    active = tuple(k for k in scales if k in state)
    if len(active) != len(state) or not active or (len(active) > 1 and active != scales[: len(active)]):
        known = ", ".join(str(list(scales[: n + 1])) for n in range(len(scales)))
        raise ConfigError(
            "the network cannot take this set of active scales",
            got=list(state),
            expected=f"one of {known}, or one alone",
        )
    for k in active:
        if tuple(state[k].shape[1:]) != bands[k].shape:
            what = f"scale {k} is not of the shape that the network was built for"
            raise SizeError(what, got=list(state[k].shape), expected=["b", *bands[k].shape])
    return active
