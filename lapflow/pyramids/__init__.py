"""Decompositions (how an image splits into scales) and interval schedules (which scale is active when)."""

from lapflow.pyramids.block_dct import BlockDCT
from lapflow.pyramids.cumulative import CumulativeIntervals
from lapflow.pyramids.identity import Identity
from lapflow.pyramids.laplacian import LaplacianPyramid
from lapflow.pyramids.stages import Stages
from lapflow.pyramids.wavelet import WaveletPyramid

__all__ = ["BlockDCT", "CumulativeIntervals", "Identity", "LaplacianPyramid", "Stages", "WaveletPyramid"]
