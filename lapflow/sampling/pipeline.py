"""A trained run or an exported folder, ready to sample: `lapflow.load(run)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lapflow.config.building import (
    build_codec,
    build_conditioner,
    build_dataset,
    build_engine,
    build_flow,
    build_model,
    build_solver,
    working_dtype,
)
from lapflow.config.schema import Config
from lapflow.core.backbone import Backbone
from lapflow.core.codec import Codec
from lapflow.core.condition import Annotations, Condition, Conditioner
from lapflow.core.dataset import Dataset, Split
from lapflow.core.engine import Engine
from lapflow.core.field import Field
from lapflow.core.guidance import Guidance
from lapflow.core.solver import Observer, Solver, Statistics
from lapflow.core.state import Shape
from lapflow.data.substitute import read_or_substitute
from lapflow.flows.flow import Flow
from lapflow.sampling.exported import is_exported, read_exported
from lapflow.sampling.loaded_run import read_run
from lapflow.sampling.request import class_label, require_annotations, require_method, resolve_guidance
from lapflow.sampling.sampler import sample
from lapflow.sampling.trajectory import Trajectory
from lapflow.util.random import keyed_generator


@dataclass(frozen=True)
class Samples:
    """What a pipeline made: `images` [n, c, h, w], nominally in [-1, 1] and not clipped, what each was asked
    to be (`annotations`; `labels` [n] or None), the work of each batch (guidance pairs count once), and the
    first sample's trajectory if it was asked for."""

    images: Tensor
    annotations: Annotations
    statistics: tuple[Statistics, ...]
    trajectory: Trajectory | None

    @property
    def labels(self) -> Tensor | None:
        """The classes asked for."""
        return torch.tensor(self.annotations["label"]) if "label" in self.annotations else None

    @property
    def evaluations(self) -> int:
        """Field evaluations per sample; the largest of the batches for an adaptive solver."""
        return max((s.evaluations for s in self.statistics), default=0)


@dataclass(frozen=True)
class Pipeline:
    """A composition with trained weights. Shape and class names are the checkpoint's own: sampling needs no
    training images.

    `shape` (c, *sizes) is that of the flow's space, `step` the training step of the checkpoint, `weights` ema
    or raw.
    """

    config: Config
    flow: Flow
    model: Backbone
    codec: Codec
    conditioner: Conditioner
    engine: Engine
    shape: Shape
    class_names: tuple[str, ...]
    step: int
    weights: str

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        checkpoint: str | None = None,
        weights: str | None = None,
        device: str = "auto",
        attention: str | None = None,
    ) -> Pipeline:
        """The newest checkpoint of a run folder (or `checkpoint`, such as step-0001000), with averaged or raw
        weights; or the weights of a folder that `lapflow export` or `LapFlowPipeline.save_pretrained` wrote.

        `attention` replaces the run's attention backend. Raises `CheckpointError` for what is not a whole run
        or export.
        """
        read = read_exported if is_exported(run := Path(run)) else read_run
        loaded_run = read(run, checkpoint=checkpoint, weights=weights, attention=attention)
        config = loaded_run.config
        flow, codec = build_flow(config), build_codec(config)
        engine = build_engine(config, device)
        shape = codec.latent_shape(loaded_run.shape)
        conditioner = build_conditioner(config, loaded_run.class_names)
        model = loaded_run.fill(build_model(config, flow, shape, conditioner.parts(), "cpu")).to(
            engine.device
        )
        with engine.autocast():
            model.require(engine.device, working_dtype(engine.device), needs_grad=False)
        return cls(
            config,
            flow,
            model,
            codec,
            conditioner,
            engine,
            shape,
            loaded_run.class_names,
            loaded_run.step,
            loaded_run.weights,
        )

    @cached_property
    def dataset(self) -> Dataset:
        """The config's data set, which only measuring needs: it need not be on the machine that samples."""
        return build_dataset(self.config)

    def label(self, name: str | int) -> int:
        """The label of a class given by name or number. Raises `ConfigError` with the nearest names."""
        return class_label(self.class_names, name)

    def require(self, solver: Solver, guidance: float | Guidance | None = None) -> Guidance:
        """The guidance that `sample` uses (None: the config's). Raises `ConfigError` unless solver and
        guidance fit this run."""
        require_method(self.flow, self.model.heads, solver)
        return resolve_guidance(self.config, self.flow, bool(self.model.condition), guidance)

    def sample(
        self,
        num: int,
        *,
        labels: Sequence[int] | Tensor | None = None,
        captions: Sequence[str] | None = None,
        annotations: Annotations | None = None,
        solver: Solver | None = None,
        guidance: float | Guidance | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        trajectory: bool = False,
        progress: Callable[[int], Any] | None = None,
    ) -> Samples:
        """Draw `num` images; sample i is a function of (seed, i) and what is asked of it.

        That is said by `annotations` as a data set says it, one value per sample ({"angle": [...]}); `labels`
        and `captions` are two of these. By default the classes in turn, or what the config's data set says of
        its held-out samples in turn. Raises `ConfigError` for what this run was not trained on. `solver` and
        `guidance` to the config's. `progress` is called with the number of images after each batch."""
        given = {
            **(annotations or {}),
            **({} if labels is None else {"label": torch.as_tensor(labels, dtype=torch.int64).tolist()}),
            **({} if captions is None else {"caption": list(captions)}),
        }
        require_annotations(given, self.conditioner.needs, num)
        wanted = given or self.annotations(range(num))
        solver = solver or build_solver(self.config)
        guidance = self.require(solver, guidance)
        size = batch_size or self.config.sampling.batch_size
        images, statistics, record = [], [], Trajectory(self.flow) if trajectory else None
        for start in range(0, num, size):
            rows = range(start, min(start + size, num))
            made, work = self.draw(
                rows,
                condition=self.conditioner({k: x[rows.start : rows.stop] for k, x in wanted.items()}),
                solver=solver,
                guidance=guidance,
                seed=seed,
                observe=record.observer if record is not None and start == 0 else None,
            )
            images.append(made)
            statistics.append(work)
            if progress is not None:
                progress(len(rows))
        return Samples(torch.cat(images), wanted, tuple(statistics), record)

    def annotations(self, rows: range) -> dict[str, list[Any]]:
        """What the samples numbered `rows` are when nothing is asked for: the classes in turn; where the
        network is told more, what the data set says of its held-out samples, or of the training samples where
        there are none."""
        if not self.conditioner.needs:
            return {}
        if self.conditioner.needs == ("label",):
            return {"label": [i % len(self.class_names) for i in rows]}
        split: Split = "test" if self.dataset.size("test") else "train"
        size = self.dataset.size(split)
        said = [read_or_substitute(self.dataset, split, i % size)[0].annotations for i in rows]
        return {name: [one[name] for one in said if name in one] for name in self.conditioner.needs}

    def draw(
        self,
        rows: range,
        *,
        condition: Condition,
        solver: Solver,
        guidance: Guidance,
        seed: int = 0,
        observe: Callable[[Field], Observer] | None = None,
    ) -> tuple[Tensor, Statistics]:
        """The samples numbered `rows`, under `condition`, as one batch: images [b, c, h, w] on the CPU, and
        the work. Sample i is a function of (seed, i) and its condition; an adaptive solver's steps are the
        batch's."""
        work: list[Statistics] = []
        with self.engine.autocast():
            latents = sample(
                self.flow,
                self.model,
                (len(rows), *self.shape),
                condition=condition,
                solver=solver,
                guidance=guidance,
                generator=[keyed_generator(seed, "noise", i) for i in rows],
                observe=observe,
                statistics=work,
            )
        with torch.inference_mode():
            images = self.codec.decode(latents).float().cpu()
        return images, sum(work[1:], work[0])


def solver_spec(config: Config, name: str | None, steps: int | None) -> dict[str, Any]:
    """The config's solver as `{name: ..., **arguments}`, with another name or number of steps per segment."""
    spec = dict(config.sampling.solver)
    if name is not None and name != spec["name"]:
        spec = {"name": name}
    return spec if steps is None else {**spec, "steps": steps}


load = Pipeline.load
"""`lapflow.load(run)`: see `Pipeline.load`."""
