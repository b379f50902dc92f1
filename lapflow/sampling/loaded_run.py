"""Trained weights and all that says what they are: what a run's checkpoint holds of them, ready to become a
model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lapflow.config.building import build_dataset
from lapflow.config.loading import load_config
from lapflow.config.schema import Config
from lapflow.core.backbone import Backbone
from lapflow.core.errors import CheckpointError, ConfigError
from lapflow.core.state import Shape
from lapflow.training.checkpoint import latest_checkpoint, load_checkpoint
from lapflow.training.run_folder import run_config

GROUPS = {"ema": "ema", "raw": "model"}
"""The tensor groups of a checkpoint that hold each kind of weights."""


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


def read_run(
    run: Path, *, checkpoint: str | None = None, weights: str | None = None, attention: str | None = None
) -> LoadedRun:
    """The newest checkpoint of a run folder (or `checkpoint`, such as step-0001000), with averaged or raw
    weights (None: as the config's sampling.weights says). Raises `CheckpointError` for what is not a whole
    run."""
    run_config(run)  # names what is wrong with a folder that is no run
    path = run / "checkpoints" / checkpoint if checkpoint else latest_checkpoint(run / "checkpoints")
    if path is None:
        raise CheckpointError(
            f"the run {run} has no checkpoint yet",
            expected="a run that saved at least once",
            remedy="train longer, or set training.checkpoint_every lower",
        )
    saved = load_checkpoint(path, only=tuple(GROUPS.values()), needs=("config", "state", "classes"))
    config = config_of(saved.documents["config"], attention)
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
    classes = tuple(saved.documents["classes"])
    return LoadedRun(
        config, shape, classes, saved.documents["state"]["step"], weights, saved.tensors[group], path
    )
