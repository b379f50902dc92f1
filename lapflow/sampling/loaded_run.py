"""Trained weights and all that says what they are, ready to become a model: read from a run's checkpoint, or
from an exported folder, which has the layout of diffusers and is read without it.

    model_index.json                 the pipeline: its class, its components, metrics and licence if known
    pipeline.py                      lets DiffusionPipeline.from_pretrained find the class; not run by lapflow
    README.md                        the model card
    backbone/config.json             the resolved lapflow config, shape, classes, step, kind of weights
    backbone/diffusion_pytorch_model.safetensors
                                     the network; a large one in several files with an index
    backbone/lapflow_backbone.py     as pipeline.py, for the network's class
    vae/                             the autoencoder of the latents, if there is one

All of an exported folder is JSON, safetensors and text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lapflow.config.building import build_dataset
from lapflow.config.loading import load_config, resolved
from lapflow.config.schema import Config
from lapflow.core.backbone import Backbone
from lapflow.core.errors import CheckpointError, ConfigError
from lapflow.core.state import Shape
from lapflow.training.checkpoint import latest_checkpoint, load_checkpoint
from lapflow.training.run_folder import places, run_config

GROUPS = {"ema": "ema", "raw": "model"}
"""The tensor groups of a checkpoint that hold each kind of weights."""

INDEX = "model_index.json"
BACKBONE, VAE = "backbone", "vae"
PIPELINE_CLASS, BACKBONE_CLASS = "LapFlowPipeline", "LapFlowModel"
SETTINGS = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARDS = f"{WEIGHTS}.index.json"
NETWORK = "network."
"""How the names of the network's tensors begin in the files."""

_REMEDY = "export the run again, or fetch the folder again"


@dataclass(frozen=True)
class LoadedRun:
    """`tensors` by the network's own names, and the config of their run. `shape` (c, *sizes) is that of the
    images, not of their latents; `class_names` are in label order; `step` is the training step, `weights` ema
    or raw, `source` where they come from."""

    config: Config
    shape: Shape
    class_names: tuple[str, ...]
    step: int
    weights: str
    tensors: dict[str, Tensor]
    source: Path

    def fill(self, model: Backbone) -> Backbone:
        """`model` with these weights, frozen and ready to evaluate. Raises `CheckpointError` if they do not
        fit."""
        try:
            model.load_state_dict(self.tensors)
        except RuntimeError as error:
            raise CheckpointError(
                f"the weights in {self.source} do not fit the config beside them: {error}"
            ) from None
        return model.eval().requires_grad_(False)


def config_of(document: Mapping[str, Any], attention: str | None) -> Config:
    """The config of a saved document, with another attention backend if one is named."""
    return load_config({**document, **({"attention": attention} if attention else {})})


def with_data_at(config: Config, overrides: Sequence[str]) -> Config:
    """The config with its data elsewhere, as `key=value` says. Raises `ConfigError` for other overrides."""
    names = [place.removesuffix(":") for place in places(config)]
    if others := [text for text in overrides if text.partition("=")[0] not in names]:
        raise ConfigError(
            "of a trained run only where its data lie may change",
            got="; ".join(others),
            expected=" or ".join(f"{name}=PATH" for name in names) or "no changes",
        )
    return load_config(resolved(config), overrides)


def read_run(
    run: Path, *, checkpoint: str | None = None, weights: str | None = None, attention: str | None = None
) -> LoadedRun:
    """The newest checkpoint of a run folder (or `checkpoint`, such as step-0001000), with averaged or raw
    weights (None: as the config's sampling.weights says). Raises `CheckpointError` for what is not a whole
    run."""
    held = run_config(run)  # names what is wrong with a folder that is no run
    path = run / "checkpoints" / checkpoint if checkpoint else latest_checkpoint(run / "checkpoints")
    if path is None:
        raise CheckpointError(
            f"the run {run} has no checkpoint yet",
            expected="a run that saved at least once",
            remedy="train longer, or set training.checkpoint_every lower",
        )
    saved = load_checkpoint(path, only=tuple(GROUPS.values()), needs=("config", "state", "classes"))
    # Where the data lie now the run knows, if it went on since.
    config = config_of({**saved.documents["config"], "data": dict(held.data)}, attention)
    group = GROUPS.get(weights := weights or config.sampling.weights)
    if group is None:
        raise ConfigError("unknown weights", got=weights, expected="ema or raw")
    if group not in saved.tensors:
        raise CheckpointError(
            f"the checkpoint {path} holds no {weights} weights",
            got=", ".join(saved.tensors) or "no weights",
            expected=group,
            remedy="ask for the other kind with weights=raw or weights=ema",
        )
    # A checkpoint of an older lapflow does not say.
    shape = tuple(saved.documents.get("shape") or build_dataset(config).shape)
    classes, step = tuple(saved.documents["classes"]), saved.documents["state"]["step"]
    return LoadedRun(config, shape, classes, step, weights, saved.tensors[group], path)


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
    index = read_index(folder)
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
    config = loaded_run.config
    if (index.get(VAE) or [None])[0]:
        config = load_config({**resolved(config), "codec": {**config.codec, "path": str(folder / VAE)}})
    return replace(loaded_run, config=config, tensors=_read_tensors(folder / BACKBONE))


def read_index(folder: Path) -> dict[str, Any]:
    """The index of an exported folder. Raises `CheckpointError` where it is that of another class."""
    index = read_json(folder / INDEX)
    name = index.get("_class_name")
    name = name[-1] if isinstance(name, list) and name else name  # by itself, or after the file that has it
    if name != PIPELINE_CLASS:
        raise CheckpointError(
            f"{folder} holds another pipeline", got=f"{INDEX} of {name}", expected=PIPELINE_CLASS
        )
    return index


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


def _read_tensors(folder: Path) -> dict[str, Tensor]:
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
            pickled = ", ".join(sorted(p.name for p in folder.glob("*.bin")))
            raise CheckpointError(
                f"the weights in {folder} cannot be read",
                got=f"{pickled}, which is a pickle" if pickled else f"{name}: {error}",
                expected=WEIGHTS,
                remedy=_REMEDY,
            ) from None
    return {name.removeprefix(NETWORK): value for name, value in found.items()}
