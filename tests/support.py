"""Compositions and random states that several tests use."""

from __future__ import annotations

import torch
from torch import Tensor

from lapflow.core.flow import Flow
from lapflow.flows import AppendBridge, GVPPath, LinearPath, VPPath
from lapflow.pyramids import CumulativeIntervals, Identity, LaplacianPyramid, WaveletPyramid

STARTS = {1: (0.0,), 2: (0.0, 0.5), 3: (0.0, 0.33, 0.67), 4: (0.0, 0.25, 0.5, 0.75)}
PATHS = {"linear": LinearPath, "gvp": GVPPath, "vp": VPPath}
DECOMPOSITIONS = {
    "laplacian": lambda levels: LaplacianPyramid(levels=levels),
    "haar": lambda levels: WaveletPyramid(levels=levels),
    "db2": lambda levels: WaveletPyramid(levels=levels, wavelet="db2"),
}


def make_flow(
    levels: int = 2, decomposition: str = "laplacian", path: str = "linear", noise: str = "decomposed", draw: str = "batch"
) -> Flow:
    intervals = CumulativeIntervals(starts=STARTS[levels], draw=draw)
    return Flow(DECOMPOSITIONS[decomposition](levels), intervals, PATHS[path](), AppendBridge(), noise=noise)


def single_scale() -> Flow:
    return Flow(Identity(), CumulativeIntervals(starts=[0.0]), LinearPath(), AppendBridge())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)
