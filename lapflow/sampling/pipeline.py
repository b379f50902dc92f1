"""A trained run or an exported folder, ready to sample: `lapflow.load(run)`. What is asked of it, a class, a
solver, a guidance, is resolved and checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    build_guidance,
    build_model,
    build_solver,
    require_solver,
    working_dtype,
)
from lapflow.config.schema import Config
from lapflow.core.backbone import Backbone
from lapflow.core.codec import Codec
from lapflow.core.condition import Annotations, Condition, Conditioner
from lapflow.core.dataset import Dataset, Split
from lapflow.core.engine import Engine
from lapflow.core.errors import ConfigError, suggest
from lapflow.core.field import Field
from lapflow.core.guidance import Guidance
from lapflow.core.intervals import Segment
from lapflow.core.solver import Observer, Solver, Statistics
from lapflow.core.state import Shape, State
from lapflow.data.contents import CONTENTS, contents_of, data_changes
from lapflow.data.quarantine import read_or_substitute
from lapflow.flows.flow import Flow
from lapflow.sampling.guidance import ClassifierFreeGuidance
from lapflow.sampling.loaded_run import is_exported, read_exported, read_run, with_data_at
from lapflow.sampling.sampler import sample
from lapflow.util.random import keyed_generator


@dataclass
class Trajectory:
    """Frames of a sampling run, how each scale matures over time: the states of the first `samples` samples
    at the solver's steps. `observer` is `sample`'s `observe`."""

    flow: Flow
    samples: int = 1
    frames: list[tuple[float, Segment, State]] = field(default_factory=list)

    def observer(self, current: Field) -> Observer:
        def watch(t: float, state: Mapping[int, Tensor]) -> None:
            self.frames.append(
                (t, current.segment, {k: x[: self.samples].detach().float().cpu() for k, x in state.items()})
            )

        return watch

    def images(self, times: Sequence[float]) -> list[tuple[float, dict[str, Tensor]]]:
        """At the frames nearest to `times`: {'scale k': the image at that scale so far [c, h, w], ...} coarse
        to fine, first sample.

        The image at scale k is what the bands from the coarsest to k make, divided by the decomposition's
        gain there. One that is larger than data and unit noise are (a variance-exploding path) is divided by
        its root mean square.
        """
        decomposition = self.flow.decomposition
        rows = []
        for wanted in times:
            # Of two frames at one time, the later: at a bridge it holds the scale that just entered.
            t, segment, state = min(reversed(self.frames), key=lambda frame: abs(frame[0] - wanted))
            bands = self.flow.to_bands(state, segment)
            images = {k: decomposition.synthesize(bands, k)[0] / decomposition.gain(k) for k in bands}
            rows.append(
                (t, {f"scale {k}": x / max(1.0, x.square().mean().sqrt().item()) for k, x in images.items()})
            )
        return rows


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
    training images. `shape` (c, *sizes) is that of the flow's space, `step` the training step, `weights` ema
    or raw; `contents` is the file of what its data are, `data_changes` how `dataset`, once it is asked for,
    differs from them, where `allow_changes` lets it."""

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
    contents: Path | None = None
    allow_changes: bool = False
    data_changes: list[str] = field(default_factory=list)

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        checkpoint: str | None = None,
        weights: str | None = None,
        device: str = "auto",
        attention: str | None = None,
        overrides: Sequence[str] = (),
        allow_changes: bool = False,
    ) -> Pipeline:
        """The newest checkpoint of a run folder (or `checkpoint`, such as step-0001000), with averaged or raw
        weights; or the weights of a folder that `lapflow export` or `LapFlowPipeline.save_pretrained` wrote.

        `attention` replaces the run's attention backend; `overrides` say where its data lie now, such as
        data.root=PATH. Raises `CheckpointError` for what is not a whole run or export, `DataError` for other
        data there than the run's unless `allow_changes`.
        """
        read = read_exported if is_exported(run := Path(run)) else read_run
        loaded_run = read(run, checkpoint=checkpoint, weights=weights, attention=attention)
        config = with_data_at(loaded_run.config, overrides)
        names, step = loaded_run.class_names, loaded_run.step
        flow, codec, engine = build_flow(config), build_codec(config), build_engine(config, device)
        shape, conditioner = codec.latent_shape(loaded_run.shape), build_conditioner(config, names)
        model = loaded_run.fill(build_model(config, flow, shape, conditioner.parts())).to(engine.device)
        with engine.autocast():
            model.require(engine.device, working_dtype(engine.device), needs_grad=False)
        parts = (config, flow, model, codec, conditioner, engine, shape, names, step, loaded_run.weights)
        made = cls(*parts, run / CONTENTS, allow_changes)
        if overrides:
            _ = made.dataset  # what is named is looked at, whether or not it is needed
        return made

    @cached_property
    def dataset(self) -> Dataset:
        """The config's data set, which only measuring needs: it need not be on the machine that samples.
        Raises `DataError` where it is not what the run was trained on, unless `allow_changes`."""
        dataset, file = build_dataset(self.config), self.contents
        if file is not None and file.exists():  # not so in an export, or a run of an older lapflow
            self.data_changes[:] = data_changes(file, contents_of(dataset), self.allow_changes)
        return dataset

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


def class_label(class_names: Sequence[str], name: str | int) -> int:
    """The label of a class given by name or number. Raises `ConfigError` with the nearest names."""
    names = list(class_names)
    if str(name) in names:
        return names.index(str(name))
    numbered = not any(n.isdecimal() for n in names)  # where a name is a number, numbers are names
    if numbered and str(name).isdecimal() and int(name) < len(names):
        return int(name)
    if not names:
        raise ConfigError("this run has no classes", got=f"class {name}", expected="no class")
    raise ConfigError(
        "class out of range" if str(name).lstrip("-").isdecimal() else "unknown class",
        got=name,
        expected=f"0 to {len(names) - 1}, or {suggest(str(name), names[:50])}",
    )


def require_annotations(given: Annotations, needs: Sequence[str], num: int) -> None:
    """Raises `ConfigError` unless all that a run is told of a sample is given of `num` samples, and nothing
    else; or nothing at all."""
    if given and set(given) != set(needs):
        raise ConfigError(
            "this is not what the run is told of a sample",
            got=", ".join(given),
            expected=", ".join(needs) or "nothing: the run has no classes and no other condition",
        )
    for name, values in given.items():
        if len(values) != num:
            raise ConfigError(
                f"{name}s must be one per sample", got=f"{len(values)} {name}s", expected=f"{num}"
            )


def require_method(flow: Flow, heads: Sequence[str], solver: Solver) -> None:
    """Raises `ConfigError` unless the solver fits the flow and its path, and asks for no other `heads` than
    the network has beside `main`."""
    require_solver(flow, solver)
    if missing := [name for name in solver.heads if name not in heads]:
        raise ConfigError(
            "this solver uses what the network does not predict",
            got=f"{type(solver).__name__} needs {', '.join(missing)}",
        )


def resolve_guidance(
    config: Config, flow: Flow, conditional: bool, guidance: float | Sequence[float] | Guidance | None
) -> Guidance:
    """The guidance that sampling uses: the config's (None), classifier-free with this scale, or the one
    given. Raises `ConfigError` unless it fits the flow and what was trained: a network that is `conditional`,
    and its null."""
    if guidance is None:
        guide = build_guidance(config)
    else:
        guide = guidance if isinstance(guidance, Guidance) else ClassifierFreeGuidance(scale=guidance)
    guide.require(flow.levels)
    if guide.off:
        return guide
    if not conditional:
        raise ConfigError(
            "guidance needs a condition to leave out", got="an unconditional run", expected="guidance scale 1"
        )
    require_null_class(config, "guidance", "guidance scale 1")
    return guide


def require_null_class(config: Config, what: str, instead: str) -> None:
    """Raises `ConfigError` where `what` asks for the null class of a run that never trained it."""
    if config.training.condition_dropout == 0:
        raise ConfigError(
            f"{what} needs the null class, which this run never trained",
            got="training.condition_dropout: 0",
            expected=f"{instead}, or a run with condition_dropout around 0.1",
        )
