"""A plugin for lapflow: next-scale prediction in the manner of VAR (Tian et al. 2024) over the bands of a
Laplacian pyramid.

A band is cut into blocks and each block is known by its nearest code. The network predicts the codes of a
scale given the coarser scales; the solver draws them, scale by scale.
"""

from varlap.network import NextScale
from varlap.objective import CrossEntropy
from varlap.path import Successive
from varlap.prediction import Drawn
from varlap.quantiser import Quantiser
from varlap.solver import DrawTokens

__all__ = ["CrossEntropy", "DrawTokens", "Drawn", "NextScale", "Quantiser", "Successive"]
