"""The quantiser: a codebook for each scale, fitted by k-means to the blocks of its band.

VAR's residual quantiser (Tian et al. 2024, algorithm 1) takes from the image what the coarser scales' codes
make, and quantises what remains. On the Laplacian pyramid the remainder is the band itself: the coarser
codes' error is constant in each block of 2x2 pixels, and a residual band has no such part. So each band has a
codebook of its own, and codes stay in the band's range, since they are means of blocks that lie in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lapflow.core.decomposition import Band
from lapflow.core.errors import SizeError
from lapflow.util.autocast import in_own_dtype
from lapflow.util.random import keyed_generator, randn

ROUNDS = 30
"""Rounds of k-means."""


def blocks(band: Tensor, patch: int) -> Tensor:
    """[b, c, h, w] -> [b, c patch^2, h / patch, w / patch], each block of pixels a vector."""
    return F.pixel_unshuffle(band, patch)


def unblocks(vectors: Tensor, patch: int) -> Tensor:
    """The inverse of `blocks`."""
    return F.pixel_shuffle(vectors, patch)


def nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    """The token of each vector: [b, d, h, w], codes [v, d] -> int64 [b, h, w]."""
    with in_own_dtype(vectors):
        rows = vectors.movedim(1, -1).float()
        return torch.cdist(rows.flatten(0, 2), codes.float()).argmin(-1).view(rows.shape[:-1])


def means(vectors: Tensor, size: int, key: str) -> Tensor:
    """k-means (Lloyd 1957): `vectors` [n, d] -> codes [size, d]. A code that no vector is nearest to moves to
    the vector that is worst off. With fewer different vectors than codes, some codes are alike."""
    first = torch.randperm(len(vectors), generator=keyed_generator("k-means", key))[:size]
    codes = vectors[first.repeat(-(-size // len(first)))[:size]].clone()
    for _ in range(ROUNDS):
        distance, token = torch.cdist(vectors, codes).min(1)
        count = torch.bincount(token, minlength=size)
        total = torch.zeros_like(codes).index_add_(0, token, vectors)
        codes = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], codes)
        empty = (count == 0).nonzero().flatten()[: len(vectors)]
        codes[empty] = vectors[distance.topk(len(empty)).indices]
    return codes


class Quantiser(nn.Module):
    """`codes{k}` [size, d]: the codebook of scale k. They are buffers: kept with the weights, and not
    trained."""

    def __init__(self, bands: Mapping[int, Band], size: int, patch: int) -> None:
        super().__init__()
        self.size, self.patch = size, patch
        for k, band in bands.items():
            if any(size % patch for size in band.sizes):
                raise SizeError(
                    f"the band of scale {k} does not divide into blocks",
                    got="x".join(map(str, band.sizes)),
                    expected=f"multiples of patch {patch}",
                    remedy="use fewer levels or a smaller patch",
                )
            shape, place = (size, band.channels * patch**2), torch.get_default_device()
            self.register_buffer(
                f"codes{k}", randn(shape, keyed_generator("codes", k), dtype=torch.float32, device=place)
            )

    def codes(self, scale: int) -> Tensor:
        return self.get_buffer(f"codes{scale}")

    def fit(self, bands: Mapping[int, Tensor]) -> None:
        """Set every codebook from the bands of training images."""
        for k, band in bands.items():
            vectors = blocks(band, self.patch).movedim(1, -1).flatten(0, 2)
            self.codes(k).copy_(means(vectors.float(), self.size, str(k)))

    def forward(self, band: Tensor, scale: int) -> Tensor:
        """The band made of its blocks' nearest codes."""
        return self.look_up(nearest(blocks(band, self.patch), self.codes(scale)), scale).to(band.dtype)

    def look_up(self, tokens: Tensor, scale: int) -> Tensor:
        """Tokens [b, h, w] -> the band [b, c, h patch, w patch]."""
        return unblocks(self.codes(scale)[tokens].movedim(-1, 1), self.patch)
