"""Codecs: the space in which a flow lives."""

from lapflow.models.codecs.autoencoder_kl import AutoencoderKLCodec
from lapflow.models.codecs.pixels import Pixels

__all__ = ["AutoencoderKLCodec", "Pixels"]
