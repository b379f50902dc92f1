"""A folder of trained weights in the layout of diffusers: what stands in it, and how it is read without it.

    model_index.json                 the pipeline: its class, its components, metrics and licence if known
    pipeline.py                      lets DiffusionPipeline.from_pretrained find the class; lapflow never
                                     runs it
    README.md                        the model card
    backbone/config.json             the resolved lapflow config, shape, classes, step, kind of weights
    backbone/diffusion_pytorch_model.safetensors
                                     the network; a large one in several files with an index
    backbone/lapflow_backbone.py     as pipeline.py, for the network's class
    vae/                             the autoencoder of the latents, if there is one

Everything is JSON, safetensors and text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lapflow.config.loading import load_config, resolved
from lapflow.config.schema import Config
from lapflow.core.errors import CheckpointError, ConfigError
from lapflow.sampling.loaded_run import LoadedRun, config_of

INDEX = "model_index.json"
BACKBONE, VAE = "backbone", "vae"
PIPELINE_CLASS, BACKBONE_CLASS = "LapFlowPipeline", "LapFlowModel"
SETTINGS = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARDS = f"{WEIGHTS}.index.json"
NETWORK = "network."
"""How the names of the network's tensors begin in the files."""

_REMEDY = "export the run again, or fetch the folder again"


def is_exported(folder: Path) -> bool:
    """Whether `folder` holds a pipeline in this layout, of whatever class."""
    return (folder / INDEX).is_file()


def read_exported(
    folder: Path, *, checkpoint: str | None = None, weights: str | None = None, attention: str | None = None
) -> LoadedRun:
    """The weights of an exported folder, and its config with the autoencoder of the folder in it.

    There is one set of them: raises `ConfigError` if a `checkpoint` or other `weights` are asked for,
    `CheckpointError` for a folder that is not lapflow's or not whole.
    """
    index = read_json(folder / INDEX)
    if class_of(index) != PIPELINE_CLASS:
        raise CheckpointError(
            f"{folder} is not a pipeline of lapflow",
            got=f"{INDEX} of {class_of(index)}",
            expected=PIPELINE_CLASS,
        )
    said = read_json(folder / BACKBONE / SETTINGS)
    loaded_run = described(said, source=folder / BACKBONE, attention=attention)
    if checkpoint is not None:
        raise ConfigError(
            "an exported folder has no checkpoints",
            got=f"checkpoint {checkpoint}",
            expected="the run that it was made of",
        )
    if weights is not None and weights != loaded_run.weights:
        raise ConfigError(
            "an exported folder holds one kind of weights", got=weights, expected=loaded_run.weights
        )
    config = (
        with_codec(loaded_run.config, folder / VAE) if (index.get(VAE) or [None])[0] else loaded_run.config
    )
    return replace(loaded_run, config=config, tensors=_tensors(folder / BACKBONE))


def described(said: Mapping[str, Any], source: Path, attention: str | None = None) -> LoadedRun:
    """What a backbone's config says of it, without its tensors. Raises `CheckpointError` for one that says
    something else."""
    try:
        shape = tuple(int(n) for n in said["shape"])
        if not 2 <= len(shape) <= 4:
            raise ValueError(f"shape {list(shape)}, and samples have 1 to 3 axes")
        names = tuple(str(name) for name in said["class_names"])
        step, weights, document = int(said["step"]), str(said["weights"]), dict(said["lapflow"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{source} is not a backbone that lapflow exported",
            got=f"{SETTINGS}: {type(error).__name__}: {error}",
            remedy=_REMEDY,
        ) from None
    return LoadedRun(config_of(document, attention), shape, names, step, weights, {}, source)


def with_codec(config: Config, path: Path) -> Config:
    """`config` with its codec read from `path`."""
    return load_config({**resolved(config), "codec": {**config.codec, "path": str(path)}})


def class_of(index: Mapping[str, Any]) -> str:
    """The class that an index names, whether by itself or with the file that has it."""
    name = index.get("_class_name")
    return str(name[-1] if isinstance(name, list) and name else name)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `CheckpointError` naming the file."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(
            f"{path} cannot be read", got=cause, expected="a folder that lapflow exported", remedy=_REMEDY
        ) from None
    return found


def _tensors(folder: Path) -> dict[str, Tensor]:
    """All of the network's tensors, from one file or from those that the index names."""
    files = {WEIGHTS}
    if (folder / SHARDS).is_file():
        names = read_json(folder / SHARDS).get("weight_map")
        files = {str(name) for name in names.values()} if isinstance(names, dict) else set()
    found: dict[str, Tensor] = {}
    for name in sorted(files):
        if "/" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{folder / SHARDS} names files that are no weights",
                got=name,
                expected="safetensors files beside it",
            )
        try:
            found |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            pickled = sorted(p.name for p in folder.glob("*.bin"))
            raise CheckpointError(
                f"the weights in {folder} cannot be read",
                got=f"{', '.join(pickled)}, which is a pickle" if pickled else f"{name}: {error}",
                expected=f"{WEIGHTS}",
                remedy=_REMEDY,
            ) from None
    return {name.removeprefix(NETWORK): value for name, value in found.items()}
