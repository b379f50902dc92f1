"""Sampling: the sampler, guidance, trained pipelines, trajectories."""

from lapflow.sampling.guidance import ClassifierFreeGuidance
from lapflow.sampling.sampler import Integration, integrate, sample

__all__ = ["ClassifierFreeGuidance", "Integration", "integrate", "sample"]
