"""Random numbers as pure functions of a key: no global state, so a run can be repeated, resumed and split.

Whatever draws takes a `torch.Generator`, or one generator for each sample, so that a sample depends on its
own seed and not on the batch in which it was made. Draws are made on the generator's own device, in float32
(float64 if asked), and then moved, so a CPU generator gives the same noise to a CPU and to a GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lapflow.core.errors import ConfigError
from lapflow.util.transfer import upload

Generators = torch.Generator | Sequence[torch.Generator]


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose stream is a function of `key` alone (SHA-256 of the key gives its seed)."""
    return torch.Generator().manual_seed(int.from_bytes(_digest(key), "little") >> 1)


def uniform_hash(*key: int | str) -> float:
    """A number in [0, 1) that is a function of `key` alone, uniform over keys (the first 53 bits of SHA-256):
    for what must not depend on the versions of torch and numpy, such as an image's split."""
    return (int.from_bytes(_digest(key), "big") >> 11) / 2**53


def _digest(key: tuple[int | str, ...]) -> bytes:
    return hashlib.sha256(repr(key).encode()).digest()[:8]


def fresh_generator() -> torch.Generator:
    """A CPU generator seeded by torch's global one (`torch.manual_seed`), for a caller who named none."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))


def randn(
    shape: Sequence[int], generator: Generators, *, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Standard normal tensor of `shape` = (b, ...); a sequence of generators draws sample by sample."""
    return _draw(torch.randn, shape, generator, dtype, device)


def rand(
    shape: Sequence[int], generator: Generators, *, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Uniform tensor on [0, 1) of `shape` = (b, ...); a sequence of generators draws sample by sample."""
    return _draw(torch.rand, shape, generator, dtype, device)


def first_generator(generator: Generators) -> torch.Generator:
    """The generator for what is drawn once for a whole batch."""
    return generator if isinstance(generator, torch.Generator) else generator[0]


def _draw(
    function: Callable[..., Tensor],
    shape: Sequence[int],
    generator: Generators,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    width = torch.float64 if dtype == torch.float64 else torch.float32
    if isinstance(generator, torch.Generator):
        return upload(
            function(tuple(shape), generator=generator, dtype=width, device=generator.device), device, dtype
        )
    if len(generator) != shape[0]:
        raise ConfigError(
            "the number of generators is not the batch size",
            got=f"{len(generator)} generators",
            expected=f"{shape[0]}, one per sample, or a single torch.Generator",
        )
    rows = [function(tuple(shape[1:]), generator=g, dtype=width, device=g.device) for g in generator]
    return upload(torch.stack(rows), device, dtype)
