"""Decompositions: how an image splits into scales."""

from lapflow.pyramids.block_dct import BlockDCT
from lapflow.pyramids.identity import Identity
from lapflow.pyramids.laplacian import LaplacianPyramid
from lapflow.pyramids.wavelet import WaveletPyramid

__all__ = ["BlockDCT", "Identity", "LaplacianPyramid", "WaveletPyramid"]
