"""Backbones (the networks that predict) and codecs (the space in which a flow lives)."""

from lapflow.models.codecs import AutoencoderKLCodec, Pixels
from lapflow.models.mot_dit import MoTDiT, Separate

__all__ = ["AutoencoderKLCodec", "MoTDiT", "Pixels", "Separate"]
