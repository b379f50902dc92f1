"""The network: a transformer in which the tokens of a scale see those of the coarser scales and each other.

A token of scale k is one block of its band. What it holds is the image that the coarser scales' codes make,
upsampled; at the coarsest scale, the class alone. All scales are predicted in one call, as LapFlow's are, and
under the same scale-causal mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lapflow.backends.attention import resolve
from lapflow.core.attention import AttentionBackend, scale_attention
from lapflow.core.backbone import MAIN, Backbone, Heads
from lapflow.core.condition import Condition, Specs, num_classes, specs
from lapflow.core.decomposition import Band
from lapflow.core.errors import ConfigError, SizeError
from lapflow.core.state import State
from lapflow.pyramids.laplacian import upsample
from varlap.quantiser import Quantiser, blocks, unblocks

LOGITS, CODES = "logits", "codes"
"""The heads beside `main`: the logits [b, v, h, w] of each block's token, and the codes [b, v, d] that the
tokens stand for."""


class Block(nn.Module):
    """Attention and an MLP, each after a layer norm that the class scales and shifts."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulate = nn.Linear(width, 4 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, said: Tensor, lengths: list[int], attention: AttentionBackend) -> Tensor:
        scale, shift, scale2, shift2 = self.modulate(said)[:, None].chunk(4, dim=-1)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2).split(lengths, dim=2)
            for part in self.qkv(norm(x) * (1 + scale) + shift).chunk(3, dim=-1)
        )
        seen = torch.cat(scale_attention(attention, q, k, v, "causal"), dim=2)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(norm(x) * (1 + scale2) + shift2)
        return out


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


class NextScale(Backbone):
    """Tokens of scale k from the coarser scales. `main` is the mean of the codes, weighted by their
    probabilities.

    It sees of a state what its codes say, and of the scale in progress nothing; it ignores the time.
    """

    heads = (LOGITS, CODES)
    guided = (MAIN, LOGITS)

    def __init__(
        self,
        bands: Mapping[int, Band],
        condition: Specs | int = 0,
        attention: str | AttentionBackend = "auto",
        *,
        codes: Annotated[int, Field(ge=2, description="size of each scale's codebook")] = 128,
        patch: Annotated[int, Field(ge=1, description="pixels a side of the block of a token")] = 2,
        width: Annotated[int, Field(ge=1, description="width of the transformer")] = 64,
        depth: Annotated[int, Field(ge=1, description="blocks of the transformer")] = 4,
        attention_heads: Annotated[int, Field(ge=1, description="heads; divides the width")] = 4,
        examples: Annotated[int, Field(ge=1, description="images that the codebooks are fitted to")] = 2000,
    ) -> None:
        super().__init__()
        if width % attention_heads:
            raise ConfigError(
                "the width does not divide among the heads",
                got=f"{width}, {attention_heads} heads",
                expected="a multiple",
            )
        self._check(bands)
        self.bands, self.condition = dict(bands), specs(condition)
        self.patch, self.examples = patch, examples
        self.attention, self.head_width = resolve(attention), width // attention_heads
        self.quantiser = Quantiser(bands, codes, patch)
        self.labels = nn.Embedding(num_classes(condition) + 1, width)
        coarsest = max(bands)
        self.places = nn.ParameterDict(
            {str(k): nn.Parameter(0.1 * torch.randn(self._tokens(k), width)) for k in bands}
        )
        self.embeds = nn.ModuleDict(
            {str(k): nn.Linear(self._vector(k), width) for k in bands if k != coarsest}
        )
        self.blocks = nn.ModuleList(Block(width, attention_heads) for _ in range(depth))
        self.finals = nn.ModuleDict({str(k): nn.Linear(width, codes) for k in bands})

    @staticmethod
    def _check(bands: Mapping[int, Band]) -> None:
        for k, band in bands.items():
            finer = bands.get(k - 1)
            if band.condition or (
                finer is not None and finer.shape != (band.channels, *(2 * size for size in band.sizes))
            ):
                raise SizeError(
                    "this network is for bands of which each is twice as large as the coarser",
                    got=", ".join(str(b.shape) for b in bands.values()),
                    expected="the bands of a Laplacian pyramid",
                )

    def _tokens(self, scale: int) -> int:
        return math.prod(size // self.patch for size in self.bands[scale].sizes)

    def _vector(self, scale: int) -> int:
        return self.bands[scale].channels * self.patch**2

    def fit(self, examples: Callable[[int], State]) -> None:
        self.quantiser.fit(examples(self.examples))

    def forward(
        self, state: Mapping[int, Tensor], t: Tensor, condition: Condition | Tensor | None = None
    ) -> Heads:
        said = self.labels(self.class_rows(self.known(condition), t))
        tokens = self._embed(state, said)
        lengths = [x.shape[1] for x in tokens]
        x = torch.cat(tokens, dim=1)
        for block in self.blocks:
            x = block(x, F.silu(said), lengths, self.attention)
        found: Heads = {MAIN: {}, LOGITS: {}, CODES: {}}
        for k, part in zip(state, norm(x).split(lengths, dim=1), strict=True):
            logits, codes = self.finals[str(k)](part), self.quantiser.codes(k).to(part.dtype)
            grid = (state[k].shape[-2] // self.patch, state[k].shape[-1] // self.patch)
            found[LOGITS][k] = logits.transpose(1, 2).unflatten(-1, grid)
            found[CODES][k] = codes.expand(len(part), -1, -1)
            mean = logits.float().softmax(-1).to(codes.dtype) @ codes
            found[MAIN][k] = unblocks(mean.transpose(1, 2).unflatten(-1, grid), self.patch)
        return found

    def _embed(self, state: Mapping[int, Tensor], said: Tensor) -> list[Tensor]:
        """The tokens [b, n_k, width] of each active scale: what the coarser codes make, the class, the
        place."""
        image: Tensor | None = None
        tokens = []
        for k, band in state.items():
            token = self.places[str(k)] + said[:, None]
            if image is not None:
                image = upsample(image)
                token = token + self.embeds[str(k)](blocks(image, self.patch).flatten(2).transpose(1, 2))
            tokens.append(token)
            made = self.quantiser(band, k).to(said.dtype)
            image = made if image is None else image + made
        return tokens

    def require(self, device: torch.device, dtype: torch.dtype, needs_grad: bool) -> str:
        return self.attention.require(device, dtype, self.head_width, needs_grad)

    def units(self) -> list[nn.Module]:
        return list(self.blocks)
