"""Transformer sizes (DiT, Peebles & Xie 2023, table 1), and the options that backbones share, as one checked
record."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from lapflow.core.attention import Mask
from lapflow.core.decomposition import AXES, Band
from lapflow.core.errors import ConfigError, SizeError, suggest

SIZES: dict[str, tuple[int, int, int]] = {
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
"""Depth, width and heads by name."""

DEFAULT_PATCH = 2

Experts = Literal["per-scale", "shared"]
Conditioning = Literal["adaln-zero", "in-context"]

# The annotated options, shared by the backbones that are made of them.
SizeOption = Annotated[
    str | None,
    Field(description="S, B, L or XL, with the patch size if wanted: S/2; or give depth, width and heads"),
]
DepthOption = Annotated[int | None, Field(ge=1, description="number of blocks, instead of a size")]
WidthOption = Annotated[int | None, Field(ge=4, description="token width d, instead of a size")]
HeadsOption = Annotated[int | None, Field(ge=1, description="attention heads, instead of a size")]
PatchOption = Annotated[
    int | Sequence[int | Sequence[int]] | None,
    Field(
        description=f"patch size, or one per scale coarse to fine, each for all axes or a list per axis; "
        f"{DEFAULT_PATCH} if neither this nor the size's name says"
    ),
]
RatioOption = Annotated[float, Field(gt=0, description="width of the MLP over the token width")]
MaskOption = Annotated[
    Mask, Field(description="scales that scale k's tokens see: causal k' >= k, self only k, none all")
]
ConditioningOption = Annotated[
    Conditioning,
    Field(
        description="how t and the class enter: adaln-zero modulates every block, in-context prepends them "
        "as tokens"
    ),
]

GivenTokens = Literal["group", "cross-attention", "in-context"]
GivenTokensOption = Annotated[
    GivenTokens,
    Field(
        description="how given tokens (a caption's) enter: as a group of their own, computed once per "
        "sample, that every scale reads; by cross-attention in every block; in-context, in front of every "
        "scale's tokens"
    ),
]

LearnSigmaOption = Annotated[
    bool, Field(description="a second head of as many channels: the learned range of a step's variance (DiT)")
]
SecondTimeOption = Annotated[
    bool, Field(description="embed a second time t_end, where the predicted step ends (flow maps)")
]


@dataclass(frozen=True)
class Architecture:
    """What a transformer over scales is made of. `patches` maps each scale to its patch size along each
    axis, coarse to fine."""

    depth: int
    width: int
    heads: int
    patches: Mapping[int, tuple[int, ...]]
    mlp_ratio: float
    mask: Mask
    conditioning: Conditioning
    experts: Experts
    learn_sigma: bool = False
    second_time: bool = False
    given_tokens: GivenTokens = "group"

    @property
    def hidden(self) -> int:
        """Width of the MLP."""
        return int(self.width * self.mlp_ratio)


def architecture(
    bands: Mapping[int, Band],
    *,
    size: str | None,
    depth: int | None,
    width: int | None,
    heads: int | None,
    patch: int | Sequence[int | Sequence[int]] | None,
    mlp_ratio: float,
    mask: Mask,
    conditioning: Conditioning,
    experts: Experts,
    learn_sigma: bool,
    second_time: bool,
    given_tokens: GivenTokens,
) -> Architecture:
    """Check the options against each other and against the bands. Raises `ConfigError` or `SizeError`."""
    if not bands:
        raise ConfigError("a backbone needs the bands of its images", expected="bands=flow.bands(shape)")
    named_patch = None
    if size is not None:
        given = {"depth": depth, "width": width, "heads": heads, "patch": patch if "/" in size else None}
        _refuse_both(size, [name for name, value in given.items() if value is not None])
        depth, width, heads, named_patch = parse_size(size)
    if depth is None or width is None or heads is None:
        missing = ", ".join(
            name for name, value in (("depth", depth), ("width", width), ("heads", heads)) if value is None
        )
        raise ConfigError(
            f"the backbone's size is not given: no {missing}",
            expected="size, for instance S/2, or all of depth, width and heads",
        )
    _check_width(width, heads, len(next(iter(bands.values())).sizes))
    patches = _patches(
        bands, patch if patch is not None else named_patch if named_patch is not None else DEFAULT_PATCH
    )
    check_patches(bands, patches)
    return Architecture(
        depth,
        width,
        heads,
        patches,
        mlp_ratio,
        mask,
        conditioning,
        experts,
        learn_sigma,
        second_time,
        given_tokens,
    )


def parse_size(size: str) -> tuple[int, int, int, int | None]:
    """`S/2` -> depth, width, heads, patch; `S` leaves the patch open (None)."""
    match = re.fullmatch(r"([^/]+)(?:/([1-9]\d*))?", size)
    if match is None or match[1] not in SIZES:
        raise ConfigError(
            "unknown backbone size",
            got=repr(size),
            expected=suggest(size, [f"{name}/{DEFAULT_PATCH}" for name in SIZES]),
        )
    return *SIZES[match[1]], int(match[2]) if match[2] else None


def _refuse_both(size: str, given: Sequence[str]) -> None:
    if given:
        remedy = (
            f"write size: {size.split('/')[0]}"
            if given == ["patch"]
            else f"drop size (null), or drop {', '.join(given)}"
        )
        raise ConfigError(
            f"size already says {', '.join(given)}",
            got=f"size {size!r} and {', '.join(given)}",
            expected="one of them",
            remedy=remedy,
        )


def _check_width(width: int, heads: int, axes: int) -> None:
    step = math.lcm(heads, 2 * axes)
    if width % step:
        below, above = width // step * step, (width // step + 1) * step
        raise ConfigError(
            f"width {width} cannot be split into {heads} heads"
            if width % heads
            else f"width {width} is not a multiple of {2 * axes}",
            got=f"width {width}, heads {heads}",
            expected=f"a multiple of heads, and of {2 * axes} for the position embedding: "
            f"{' or '.join(str(w) for w in (below, above) if w)}",
        )


def _patches(
    bands: Mapping[int, Band], patch: int | Sequence[int | Sequence[int]]
) -> dict[int, tuple[int, ...]]:
    axes = len(next(iter(bands.values())).sizes)
    each = [patch] * len(bands) if isinstance(patch, int) else list(patch)
    if len(each) != len(bands):
        expected = f"{len(bands)}, coarse to fine, or a single number"
        raise ConfigError("patch has not one entry per scale", got=f"{len(each)} entries", expected=expected)
    sizes = [(p,) * axes if isinstance(p, int) else tuple(p) for p in each]
    if any(len(p) != axes for p in sizes):
        raise ConfigError("a patch has not one size per axis", got=f"patch {patch}", expected=f"{axes} sizes")
    if min(min(p) for p in sizes) < 1:
        raise ConfigError("a patch has at least one pixel", got=f"patch {patch}", expected="1 or more")
    return dict(zip(bands, sizes, strict=True))


def check_patches(bands: Mapping[int, Band], patches: Mapping[int, Sequence[int]]) -> None:
    """Raises `SizeError`, with sizes and patches that would work, unless every band can be cut into its
    patches."""
    for k, band in bands.items():
        for axis, (size, patch) in enumerate(zip(band.sizes, patches[k], strict=True)):
            if size % patch:
                name = AXES[len(band.sizes)][axis]
                raise SizeError(
                    f"scale {k} of {name} {size} cannot be cut into patches of {patch}",
                    got=f"scale {k} of {'x'.join(map(str, band.sizes))}, patch {patch}",
                    expected=_sizes_that_work(bands, patches, axis),
                    remedy=f"resize the samples, use fewer scales, or a patch that divides "
                    f"{math.gcd(*band.sizes)}",
                )


def _sizes_that_work(bands: Mapping[int, Band], patches: Mapping[int, Sequence[int]], axis: int) -> str:
    """Scale 0 is so many times the size of scale k; its size must be a multiple of that times the patch, for
    every k."""
    finest = min(bands)
    sizes = bands[finest].sizes
    size, name = sizes[axis], AXES[len(sizes)][axis]
    multiple = math.lcm(*(patches[k][axis] * max(1, size // band.sizes[axis]) for k, band in bands.items()))
    works = [s for s in (size // multiple * multiple, (size // multiple + 1) * multiple) if s]
    return (
        f"scale {finest} with a {name} that is a multiple of {multiple}, for instance "
        f"{' or '.join(map(str, works))}"
    )
