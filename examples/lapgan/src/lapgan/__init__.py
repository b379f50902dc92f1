"""A plugin for lapflow: LapGAN (Denton et al. 2015) as the path `one-step`, the backbone `lapgan` and the
objective `lapgan`."""

from lapgan.generator import Generator
from lapgan.objective import Adversarial
from lapgan.path import OneStep

__all__ = ["Adversarial", "Generator", "OneStep"]
