"""The transformer over scales that the backbones are made of.

Tokens of the active scales stand in one sequence, coarse to fine; attention is masked by scale; every scale
has its own patch embedding and final layer; blocks have one expert per scale or one for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lapflow.core.attention import AttentionBackend, attention_pairs
from lapflow.core.backbone import MAIN, VARIANCE, Heads, Hidden
from lapflow.core.condition import (
    Condition,
    Spec,
    Tokens,
    TokensSpec,
    VectorSpec,
    num_classes,
    refuse_unknown,
)
from lapflow.core.decomposition import Band
from lapflow.core.errors import ConfigError, SizeError
from lapflow.core.state import State, Times, time_of
from lapflow.models.blocks import Block, Expert, MaskedAttention, ModulatedExpert
from lapflow.models.given import CrossAttention, Prepared, TokenEmbedder, TokenGroup
from lapflow.models.layers import (
    FinalLayer,
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    VectorEmbedder,
    grid_of,
)
from lapflow.models.sizes import Architecture

SHARED = "shared"

LearnSigmaOption = Annotated[
    bool, Field(description="a second head of as many channels: the learned range of a step's variance (DiT)")
]


class ScaleTransformer(nn.Module):
    """Takes the scales `inputs` and returns those of them in `outputs` (both default to all bands), coarse to
    fine.

    Positions are relative to the finest of all `bands`, so that towers over fewer scales place their tokens
    alike.
    """

    def __init__(
        self,
        bands: Mapping[int, Band],
        condition: Mapping[str, Spec],
        attention: AttentionBackend,
        design: Architecture,
        inputs: Sequence[int] | None = None,
        outputs: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.bands, self.condition, self.design = dict(bands), dict(condition), design
        self.inputs = tuple(bands if inputs is None else inputs)
        self.outputs = self.inputs if outputs is None else tuple(outputs)
        self.modulated = design.conditioning == "adaln-zero"
        finest = grid_of(bands[min(bands)], design.patches[min(bands)])
        embeds = {k: PatchEmbed(bands[k], design.patches[k], design.width, finest) for k in self.inputs}
        self.embeds = nn.ModuleDict({str(k): embed for k, embed in embeds.items()})
        self.time = TimestepEmbedder(design.width)
        classes = num_classes(condition)
        self.label = LabelEmbedder(classes, design.width) if classes else None
        # How much the image beside the state is corrupted: a second time.
        self.level = TimestepEmbedder(design.width) if any(bands[k].condition for k in self.inputs) else None
        # The length of the step that is predicted, where it ends at a second time.
        self.end = TimestepEmbedder(design.width) if design.second_time else None
        vectors = {name: spec for name, spec in condition.items() if isinstance(spec, VectorSpec)}
        self.vectors = nn.ModuleDict(
            {name: VectorEmbedder(spec.size, design.width) for name, spec in vectors.items()}
        )
        self.token_specs = {name: spec for name, spec in condition.items() if isinstance(spec, TokensSpec)}
        self.attention = MaskedAttention(attention, design.mask, design.heads)
        self.blocks = nn.ModuleList(self._block() for _ in range(design.depth))
        channels = {k: bands[k].channels * (1 + design.learn_sigma) for k in self.outputs}
        self.finals = nn.ModuleDict(
            {str(k): FinalLayer(embeds[k], c, design.width, self.modulated) for k, c in channels.items()}
        )
        self.tokens = nn.ModuleDict(
            {name: TokenEmbedder(spec, design.width) for name, spec in self.token_specs.items()}
        )
        grouped = self.token_specs if design.given_tokens == "group" else {}
        self.groups = nn.ModuleDict(
            {name: TokenGroup(self.attention, design.depth, design.width, design.hidden) for name in grouped}
        )
        self.reset_parameters()

    def _block(self) -> Block:
        width, hidden = self.design.width, self.design.hidden
        names = [str(k) for k in self.inputs] if self.design.experts == "per-scale" else [SHARED]
        kind = ModulatedExpert if self.modulated else Expert
        experts, cross = {name: kind(width, hidden) for name in names}, None
        if self.design.given_tokens == "cross-attention" and self.token_specs:
            cross = {name: CrossAttention(width, self.design.heads, self.attention) for name in names}
        return Block(experts, self.attention, cross)

    def require(self, device: torch.device, dtype: torch.dtype, needs_grad: bool) -> str:
        """The attention kernel that runs there. Raises `BackendError` if the backend cannot."""
        return self.attention.require(device, dtype, self.design.width // self.design.heads, needs_grad)

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
            elif isinstance(module, VectorEmbedder):
                nn.init.normal_(module.null, std=0.02)
            elif isinstance(module, TokenEmbedder):
                module.reset_parameters()
            elif isinstance(module, CrossAttention):
                nn.init.zeros_(module.proj.weight)
            elif isinstance(module, ModulatedExpert):
                nn.init.zeros_(module.modulation.weight)
            elif isinstance(module, FinalLayer):
                nn.init.zeros_(module.linear.weight)
                if module.modulation is not None:
                    nn.init.zeros_(module.modulation.weight)
            elif isinstance(module, PatchEmbed):
                module.reset_position()

    @property
    def pooled(self) -> int:
        """How many vectors say what the network is conditioned on: times, class, level, numbers."""
        return 1 + sum(x is not None for x in (self.label, self.level, self.end)) + len(self.vectors)

    # ------------------------------------------------------------------ forward

    def forward(
        self,
        state: Mapping[int, Tensor],
        t: Times,
        given: Condition | Tensor | None = None,
        t_end: Times | None = None,
        return_hidden: Sequence[str] = (),
    ) -> tuple[Heads, Hidden]:
        """state {k: [b, c_k, *sizes_k]} of some of `inputs`, t [b] or {k: [b]}, what is given beside -> heads
        of {k: [b, c_k, *sizes_k]} and the hidden states asked for, both of the active ones of `outputs`."""
        scales = tuple(k for k in self.inputs if k in state)
        given = Condition.of(given)
        refuse_unknown(given, self.condition)
        said = self._conditions(t, t_end, scales, given)
        conditions = tuple(said) if self.modulated else (None,) * len(scales)
        beside = self._given(given, state[scales[0]])
        # What stands in front of every scale's own tokens is seen under every mask.
        fronts: list[list[Tensor]] = [[] if self.modulated else [x] for x in said]
        if self.design.given_tokens == "in-context" and beside:
            fronts, beside = [[*front, beside[0]] for front in fronts], []
        tokens = [self.embeds[str(k)](self._beside(state[k], k, given)) for k in scales]
        tokens = [torch.cat([*front, x], dim=1) if front else x for front, x in zip(fronts, tokens)]
        first = sum(x.shape[1] for x in fronts[0])
        lengths = tuple(x.shape[1] for x in tokens)
        shared = self.design.experts == "shared"
        names = tuple(SHARED if shared else str(k) for k in scales)
        # With one expert and one condition for all, the tokens of all scales are one group.
        joined = shared and isinstance(t, Tensor) and not isinstance(t_end, Mapping)
        groups = (torch.cat(tokens, dim=1),) if joined else tuple(tokens)

        def apart(groups: tuple[Tensor, ...]) -> State:
            split = groups[0].split(lengths, dim=1) if joined else groups
            return {k: x[:, first:] for k, x in zip(scales, split) if k in self.outputs}

        hidden: Hidden = {}
        for i, (name, block) in enumerate(zip(self.design.hidden_names, self.blocks)):
            n = len(groups)
            groups = block(groups, conditions[:n], names[:n], lengths, *beside[i : i + 1])
            if name in return_hidden:
                hidden[name] = apart(groups)
        condition_of = dict(zip(scales, conditions))
        found = {k: self.finals[str(k)](x, condition_of[k]) for k, x in apart(groups).items()}
        return with_variance(found, self.design.learn_sigma), hidden

    def prepare(self, given: Condition) -> Condition:
        """The condition with the keys and values of its token groups in the place of the tokens."""
        parts = {name: part for name, part in given.parts.items() if name in self.groups}
        for name, part in parts.items():
            assert isinstance(part, Tokens)
            made = self.groups[name](self.tokens[name](part, part.given))
            given = given.beside(name, Prepared(dict(enumerate(made))))
        return given

    def _given(self, given: Condition, like: Tensor) -> list[Tensor]:
        """Of the tokens given, for each block: the groups' keys and values [b, m, 2 d], or the tokens [b, m,
        d]."""
        found: list[list[Tensor]] = []
        for name, embed in self.tokens.items():
            part = given.parts.get(name)
            if isinstance(part, Prepared):
                found.append(list(part.value.values()))
                continue
            tokens = embed(part, like)
            found.append(self.groups[name](tokens) if name in self.groups else [tokens] * self.design.depth)
        return [layer[0] if len(layer) == 1 else torch.cat(layer, dim=1) for layer in zip(*found)]

    def _beside(self, x: Tensor, scale: int, given: Condition) -> Tensor:
        """A scale with the image that is given beside it, as further channels."""
        if not self.bands[scale].condition:
            return x
        if given.image is None or scale not in given.image.value:
            raise ConfigError(
                f"the network of scale {scale} wants the coarser image beside it",
                got="none",
                expected="condition.image",
            )
        return torch.cat([x, given.image.value[scale].to(x.dtype)], dim=1)

    def _conditions(
        self, t: Times, t_end: Times | None, scales: Sequence[int], given: Condition
    ) -> list[Tensor]:
        """`_condition` of each scale: made once where the times are shared."""
        if isinstance(t, Tensor) and not isinstance(t_end, Mapping):
            return [self._condition(t, t_end, given)] * len(scales)
        ends = {k: None if t_end is None else time_of(t_end, k) for k in scales}
        return [self._condition(time_of(t, k), ends[k], given) for k in scales]

    def _condition(self, t: Tensor, t_end: Tensor | None, given: Condition) -> Tensor:
        """The condition for modulation [b, d], its SiLU taken once for all layers; or the tokens to prepend
        [b, m, d]."""
        embedded = [self.time(t)]
        if self.end is not None:
            embedded.append(self.end(torch.zeros_like(t) if t_end is None else t_end - t))
        if self.label is not None:
            embedded.append(self.label(given.labels, t))
        if self.level is not None:
            level = torch.zeros_like(t) if given.image is None else given.image.level.to(t.dtype)
            embedded.append(self.level(level))
        for name, embed in self.vectors.items():
            embedded.append(embed(given.parts.get(name), t))
        return F.silu(sum(embedded[1:], embedded[0])) if self.modulated else torch.stack(embedded, dim=1)

    # ------------------------------------------------------------------ cost

    def multiply_adds(self, scales: Iterable[int]) -> dict[str, int]:
        """Multiply-adds of one evaluation of one sample with these active scales, by part (n_k tokens, d
        width, L depth).

        `linear`: (4 + 2 mlp_ratio) d^2 L sum(n_k), which is 12 d^2 L sum(n_k) at ratio 4, plus the patch
        embeddings and the final linear layers. `attention`: 2 d L pairs. `modulation`: 6 d^2 L per expert
        used, plus 2 d^2 per final layer; none under in-context conditioning, whose extra tokens count in the
        other two. Embeddings of t and y are left out. Of m tokens given, what an evaluation does with them:
        every scale's attention to them (2 d L m sum(n_k)), the layers of cross-attention, or the longer
        sequences in context; a token group itself is computed once per sample (`given_multiply_adds`)."""
        given, d, depth = set(scales), self.design.width, self.design.depth
        active = [k for k in self.inputs if k in given]
        pixels = {k: math.prod(self.bands[k].sizes) for k in active}
        tokens, way = sum(spec.length for spec in self.token_specs.values()), self.design.given_tokens
        extra = (0 if self.modulated else self.pooled) + (tokens if way == "in-context" else 0)
        seen = 0 if way == "in-context" else tokens
        lengths = [cast(PatchEmbed, self.embeds[str(k)]).tokens + extra for k in active]
        returned = [k for k in active if k in self.outputs]
        experts = len(active) if self.design.experts == "per-scale" else 1
        read = sum(pixels[k] * (self.bands[k].channels + self.bands[k].condition) for k in active)
        written = sum(pixels[k] * self.bands[k].channels * (1 + self.design.learn_sigma) for k in returned)
        ends = d * (read + written)
        reads = sum(lengths) + experts * tokens if tokens and way == "cross-attention" else 0
        cross = 2 * d * d * depth * reads
        return {
            "linear": (4 * d * d + 2 * d * self.design.hidden) * depth * sum(lengths) + ends + cross,
            "attention": 2 * d * depth * (attention_pairs(lengths, self.design.mask) + seen * sum(lengths)),
            "modulation": d * d * (6 * depth * experts + 2 * len(returned)) if self.modulated else 0,
        }

    def given_multiply_adds(self) -> int:
        """Multiply-adds of the token groups, once per sample: their linear layers and attention."""
        depth, width = self.design.depth, self.design.width
        layer = 4 * width**2 + 2 * width * self.design.hidden
        lengths = [spec.length for name, spec in self.token_specs.items() if name in self.groups]
        return sum(((depth - 1) * (layer + 2 * width * m) + 2 * width**2) * m for m in lengths)


def require_scales(state: Mapping[int, Tensor], bands: Mapping[int, Band]) -> None:
    """Raises `ConfigError` unless the scales of `state` are a non-empty coarse part of those of `bands`
    (coarse to fine), or one of them alone (a merged image); `SizeError` unless they are shaped as their
    bands."""
    scales, active = list(bands), [k for k in bands if k in state]
    if len(active) != len(state) or not active or (len(active) > 1 and active != scales[: len(active)]):
        raise ConfigError(
            "the network cannot take this set of active scales",
            got=list(state),
            expected=f"one of {', '.join(str(scales[: n + 1]) for n in range(len(scales)))}, or one alone",
        )
    for k in active:
        if tuple(state[k].shape[1:]) != bands[k].shape:
            what = f"scale {k} is not of the shape that the network was built for"
            raise SizeError(what, got=list(state[k].shape), expected=["b", *bands[k].shape])


def with_variance(found: State, learn_sigma: bool) -> Heads:
    """The heads of what a network returns: the second half of the channels is that of the variance, if one
    is learned."""
    if not learn_sigma:
        return {MAIN: found}
    halves = {k: x.chunk(2, dim=1) for k, x in found.items()}
    return {
        MAIN: {k: pair[0] for k, pair in halves.items()},
        VARIANCE: {k: pair[1] for k, pair in halves.items()},
    }
