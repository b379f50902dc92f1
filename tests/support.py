"""Compositions and random states that several tests use."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lapflow.data.encoding import Encoder, plan
from lapflow.flows import AppendBridge, GVPPath, LinearPath, VPPath
from lapflow.flows.compose import compose
from lapflow.flows.flow import Flow
from lapflow.plugins import create
from lapflow.pyramids import Identity, LaplacianPyramid, WaveletPyramid
from lapflow.schedules import CumulativeIntervals
from lapflow.util.files import file_sha256

AXES = [1, 2, 3, [False, True, True], [[True, True, True], [True, False, False]]]
"""Axes that three scales halve: all of series, images and films; some of a film's; others in each step."""
STARTS = {1: (0.0,), 2: (0.0, 0.5), 3: (0.0, 0.33, 0.67), 4: (0.0, 0.25, 0.5, 0.75)}
PATHS = {"linear": LinearPath, "gvp": GVPPath, "vp": VPPath}
DECOMPOSITIONS = {
    "laplacian": lambda levels: LaplacianPyramid(levels=levels),
    "haar": lambda levels: WaveletPyramid(levels=levels),
    "db2": lambda levels: WaveletPyramid(levels=levels, wavelet="db2"),
}


def make_flow(
    levels: int = 2,
    decomposition: str = "laplacian",
    path: str = "linear",
    noise: str = "decomposed",
    segment_sampling: str = "batch",
) -> Flow:
    intervals = CumulativeIntervals(starts=STARTS[levels], segment_sampling=segment_sampling)
    split = DECOMPOSITIONS[decomposition](levels)
    return compose(
        split, intervals, PATHS[path](), AppendBridge(), noise=create("noise", noise, decomposition=split)
    )


def single_scale() -> Flow:
    return compose(Identity(), CumulativeIntervals(starts=[0.0]), LinearPath(), AppendBridge())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def small_autoencoder(folder: Path, seed: int = 0, image_channels: int = 3, **options: Any) -> Path:
    """A random AutoencoderKL of factor 2 with 2 latent channels, as diffusers saves one."""
    diffusers = pytest.importorskip("diffusers")
    widths = options.setdefault("block_out_channels", [4, 8])
    blocks = {
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "in_channels": image_channels,
        "out_channels": image_channels,
        "latent_channels": 2,
        "norm_num_groups": 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        diffusers.AutoencoderKL(**{**blocks, **options}).save_pretrained(folder)
    return folder


GLYPHS = {"name": "glyphs", "size": 16, "train": 10, "test": 3}


def codec_of(autoencoder: Path, **options: Any) -> dict[str, Any]:
    """The small autoencoder as a config names it."""
    return {"name": "autoencoder-kl", "path": str(autoencoder), "factor": 2, "channels": 2, **options}


def encoder(
    out: Path,
    autoencoder: Path,
    *,
    images: dict[str, Any] = GLYPHS,
    settings: dict[str, Any] | None = None,
    **rest: Any,
) -> Encoder:
    """An encoder of a few glyphs by the small autoencoder (made if it is not there), in shards of four."""
    if not autoencoder.exists():
        small_autoencoder(autoencoder, image_channels=1)
    dataset, codec, device = (
        create("dataset", images),
        create("codec", codec_of(autoencoder)),
        torch.device("cpu"),
    )
    made = plan(
        dataset,
        codec,
        images=images,
        made_by=codec_of(autoencoder),
        device=device,
        **{"shard_size": 4, **(settings or {})},
    )
    return Encoder(dataset, codec, made, out, device=device, **{"batch_size": 3, **rest})


def cached_glyphs(out: Path, autoencoder: Path, bad_images: float = 0.0, **settings: Any) -> Path:
    """A cache of a few glyphs' moments."""
    assert encoder(out, autoencoder, settings=settings, bad_images=bad_images).run() == []
    return out


class SmallInception(torch.nn.Module):
    """The interface of NVIDIA's inception-2015-12-05.pt: 8-bit levels, resized inside; `features` of them if
    asked."""

    def __init__(self, seed: int = 0, features: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = torch.nn.Conv2d(3, features, 3, stride=2)
            self.output = torch.nn.Linear(features, 4)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        x = (torch.nn.functional.interpolate(img.to(torch.float32), (31, 31), mode="bilinear") - 128) / 128
        x = torch.relu(self.layers(x)).mean([2, 3])
        return x if return_features else self.output(x)


def small_inception(path: Path, seed: int = 0, features: int = 6) -> dict[str, Any]:
    """A random network of that interface as a TorchScript file, and the extractor of it as a config names
    it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(SmallInception(seed, features)).save(str(path))
    return {"name": "inception", "path": str(path), "sha256": file_sha256(path)}


def mean_and_spread(batch: Tensor) -> Tensor:
    """Features of a user's own: mean and standard deviation of each channel. Images [b, c, h, w] -> [b, 2
    c]."""
    return torch.cat([batch.mean([2, 3]), batch.std([2, 3])], 1)


mean_and_spread.resize = "none"  # type: ignore[attr-defined]
