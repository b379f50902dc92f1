"""Feature extractors: pixels, the Inception network of FID, a user's own."""

from lapflow.data.features.inception import InceptionFeatures
from lapflow.data.features.module import ModuleFeatures
from lapflow.data.features.pixels import PixelFeatures

__all__ = ["InceptionFeatures", "ModuleFeatures", "PixelFeatures"]
