"""Sampling: the sampler, trained pipelines, trajectories, and the Gaussian oracle that checks them."""

from lapflow.sampling.sampler import Integration, integrate, sample

__all__ = ["Integration", "integrate", "sample"]
