"""Multi-scale flow-matching generative models, composed by config."""

__version__ = "0.1.0"
