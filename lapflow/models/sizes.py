"""Transformer sizes (DiT, Peebles & Xie 2023, table 1), and what a transformer is made of as one checked
record."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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

Patch = int | Sequence[int | Sequence[int]]
Experts = Literal["per-scale", "shared"]
Conditioning = Literal["adaln-zero", "in-context"]
GivenTokens = Literal["group", "cross-attention", "in-context"]


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
    learn_sigma: bool
    second_time: bool
    given_tokens: GivenTokens

    @property
    def hidden(self) -> int:
        """Width of the MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def hidden_names(self) -> tuple[str, ...]:
        """The hidden states, one after each block."""
        return tuple(f"block{i + 1}" for i in range(self.depth))


def dimensions(
    bands: Mapping[int, Band],
    size: str | None,
    depth: int | None,
    width: int | None,
    heads: int | None,
    patch: Patch | None,
) -> tuple[int, int, int, dict[int, tuple[int, ...]]]:
    """Depth, width, heads and each scale's patch, of the options that say them: checked against each other
    and against the bands. Raises `ConfigError` or `SizeError`."""
    if not bands:
        raise ConfigError("a backbone needs the bands of its images", expected="bands=flow.bands(shape)")
    named_patch = None
    if size is not None:
        options = {"depth": depth, "width": width, "heads": heads, "patch": patch if "/" in size else None}
        if given := [name for name, value in options.items() if value is not None]:
            twice, plain = ", ".join(given), f"write size: {size.split('/')[0]}"
            raise ConfigError(
                f"size already says {twice}",
                got=f"size {size!r} and {twice}",
                expected="one of them",
                remedy=plain if given == ["patch"] else f"drop size (null), or drop {twice}",
            )
        depth, width, heads, named_patch = parse_size(size)
    if depth is None or width is None or heads is None:
        options = {"depth": depth, "width": width, "heads": heads}
        missing = [name for name, value in options.items() if value is None]
        raise ConfigError(
            f"the backbone's size is not given: no {', '.join(missing)}",
            expected="size, for instance S/2, or all of depth, width and heads",
        )
    _check_width(width, heads, len(next(iter(bands.values())).sizes))
    return depth, width, heads, _patches(bands, named_patch or DEFAULT_PATCH if patch is None else patch)


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


def _check_width(width: int, heads: int, axes: int) -> None:
    step = math.lcm(heads, 2 * axes)
    if width % step:
        raise ConfigError(
            f"width {width} cannot be split into {heads} heads"
            if width % heads
            else f"width {width} is not a multiple of {2 * axes}",
            got=f"width {width}, heads {heads}",
            expected=f"a multiple of heads, and of {2 * axes} for the position embedding: "
            f"{multiples(step, width)}",
        )


def _patches(bands: Mapping[int, Band], patch: Patch) -> dict[int, tuple[int, ...]]:
    """Each scale's patch along each axis. Raises `SizeError`, with sizes and patches that would work, unless
    every band can be cut into its patches."""
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
    patches = dict(zip(bands, sizes, strict=True))
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
    return patches


def _sizes_that_work(bands: Mapping[int, Band], patches: Mapping[int, Sequence[int]], axis: int) -> str:
    """Scale 0 is so many times the size of scale k; its size must be a multiple of that times the patch, for
    every k."""
    finest = min(bands)
    sizes = bands[finest].sizes
    size, name = sizes[axis], AXES[len(sizes)][axis]
    multiple = math.lcm(*(patches[k][axis] * max(1, size // band.sizes[axis]) for k, band in bands.items()))
    return (
        f"scale {finest} with a {name} that is a multiple of {multiple}, for instance "
        f"{multiples(multiple, size)}"
    )


def multiples(step: int, size: int) -> str:
    """The multiples of `step` around `size` in words, such as `12 or 24`; not 0."""
    below = max(size, 0) // step * step
    return f"{below} or {below + step}" if below else f"{step}"
