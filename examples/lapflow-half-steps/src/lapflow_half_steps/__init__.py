"""A plugin for lapflow: the decomposition `half-steps` and the solver `ssprk3`."""

from lapflow_half_steps.decomposition import HalfSteps
from lapflow_half_steps.solver import SSPRK3

__all__ = ["SSPRK3", "HalfSteps"]
