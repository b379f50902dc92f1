"""Data sets and their order: digits and glyphs (built in), image folder, cached latents, batches."""

from lapflow.data.digits import Digits
from lapflow.data.folder import ImageFolder
from lapflow.data.glyphs import Glyphs
from lapflow.data.latents import Latents
from lapflow.data.loader import Batch, Batches, flipped, indices, load_split, order, place

__all__ = [
    "Batch",
    "Batches",
    "Digits",
    "Glyphs",
    "ImageFolder",
    "Latents",
    "flipped",
    "indices",
    "load_split",
    "order",
    "place",
]
