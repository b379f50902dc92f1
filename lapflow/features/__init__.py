"""Feature extractors: pixels, the Inception network of FID, a user's own."""

from lapflow.features.inception import InceptionFeatures
from lapflow.features.module import ModuleFeatures
from lapflow.features.pixels import PixelFeatures

__all__ = ["InceptionFeatures", "ModuleFeatures", "PixelFeatures"]
