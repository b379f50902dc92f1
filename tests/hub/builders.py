"""Small pipelines with random weights that depend on everything, and what tests ask of them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from lapflow.config.loading import load_config
from lapflow.hub import LapFlowModel, LapFlowPipeline
from lapflow.hub.model import settings_of
from lapflow.sampling.loaded_run import LoadedRun
from lapflow.util.random import keyed_generator
from tests.support import codec_of, small_autoencoder

SMALL = ["model.depth=1", "model.width=32", "model.heads=2"]
UNET = ["model.channels=[8,8,8]", "model.head_width=8", "model.groups=4"]
DIGITS = tuple(str(i) for i in range(10))

SYSTEMS = {
    "lapflow-digits": 6,
    "lapflow-wavelet-digits": 5,
    "pyramidal-flow-digits": 6,
    "dit-digits": 5,
    "ldm-digits": 5,
    "cascaded-digits": 6,
    "relay-digits": 6,
    "edify-shipped-digits": 6,
    "lfm-digits": None,
}
"""Recipes of every kind of composition, with a number of steps: bands and merged images, one segment and
several, ODEs and samplers that draw, one white image and several, an adaptive solver (None)."""


def loaded_run(recipe: str = "lapflow-digits", *overrides: str, shape=(1, 8, 8), names=DIGITS) -> LoadedRun:
    config = load_config(recipe, [*(UNET if recipe.startswith("ldm") else SMALL), *overrides])
    return LoadedRun(config, shape, tuple(names), 7, "ema", {}, Path("nowhere"))


def model(about: LoadedRun) -> LapFlowModel:
    built = LapFlowModel(**settings_of(about)).eval()
    with torch.no_grad():
        for name, weight in built.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=keyed_generator(name)) * 0.1)
    return built


def pipeline(recipe: str = "lapflow-digits", *overrides: str, **about) -> LapFlowPipeline:
    return quiet(LapFlowPipeline(model(loaded_run(recipe, *overrides, **about)), None))


def latent_pipeline(folder: Path) -> LapFlowPipeline:
    """16x16 grey images in latents [2, 8, 8] of a small random autoencoder, two classes."""
    from diffusers import AutoencoderKL

    small_autoencoder(folder, image_channels=1, scaling_factor=0.5, shift_factor=0.1)
    spec = codec_of(folder)
    override = "codec={" + ", ".join(f"{key}: {value}" for key, value in spec.items()) + "}"
    about = loaded_run("lapflow-digits", override, shape=(1, 16, 16), names=("left", "right"))
    return quiet(
        LapFlowPipeline(model(about), AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False))
    )


def copied(pipe: LapFlowPipeline) -> LapFlowPipeline:
    """A pipeline that a test may move and change."""
    return quiet(LapFlowPipeline(**deepcopy(pipe.components)))


def quiet(pipe: LapFlowPipeline) -> LapFlowPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in numbers]


def draw(pipe: LapFlowPipeline, labels=(3, 1, 4), generator=None, **arguments) -> torch.Tensor:
    """Images [b, c, h, w] in [0, 1], of generators 0, 1, ... unless others are given."""
    generator = seeds(*range(len(labels))) if generator is None else generator
    return pipe(list(labels), generator=generator, **{"output_type": "pt", **arguments}).images
